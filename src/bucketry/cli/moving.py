"""What push, pull and copy share: their options, and the frame they run in."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Group, Parameter

from bucketry.cli.output import complain

if TYPE_CHECKING:
    from bucketry.cli.progress import Style
    from bucketry.transfer.events import Listener
    from bucketry.transfer.names import Place
    from bucketry.transfer.settings import TransferSettings

SPEED = Group("Speed", sort_key=1)
OUTPUT = Group("Output", sort_key=3)

INTERRUPTED, TERMINATED = 130, 143


Insecure: TypeAlias = Annotated[
    bool, Parameter(negative=(), help="Allow plain http to a registry that is not on this machine.")
]
Referrers: TypeAlias = Annotated[
    bool, Parameter(negative=(), help="Take signatures, SBOMs and whatever else refers to the image along.")
]
OnePlatform: TypeAlias = Annotated[
    str | None,
    Parameter(metavar="OS/ARCH", help="One image of an index, such as `linux/amd64`. Default: the whole index."),
]


@Parameter(name="*", group=SPEED)
@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    parallel: Annotated[
        int | None,
        Parameter(metavar="N", help="Pieces on their way at once, 1 to 64. Default: as many as make it faster."),
    ] = None
    memory: Annotated[str, Parameter(metavar="SIZE", help="The buffers of all pieces together. Default: `256MiB`")] = (
        "256MiB"
    )
    part_size: Annotated[
        str | None, Parameter(metavar="SIZE", help="Of each piece. Default: chosen by the size of the layer.")
    ] = None


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative=(), help="Print the result only.")] = False
    plain: Annotated[bool, Parameter(negative=(), help="Lines, no bars, on a terminal too.")] = False
    json: Annotated[bool, Parameter(negative=(), help="Every event as a line of JSON, on standard output.")] = False

    @property
    def style(self) -> Style:
        if self.json:
            return "json"
        if self.quiet:
            return "quiet"
        return "plain" if self.plain else "auto"


def settings(
    speed: SpeedOptions, *, platform: str | None, compression: str = "gzip", referrers: bool = False
) -> TransferSettings:
    """Raises `NameUnusable`."""
    from bucketry.transfer.settings import TransferSettings

    if platform is not None:
        from bucketry.transfer.selection import parse_platform

        parse_platform(platform)
    chosen = TransferSettings(platform=platform, compression=compression, referrers=referrers)
    # One after the other, so that the option at fault is named.
    with _naming(f"--parallel {speed.parallel}"):
        chosen = replace(chosen, parallel=speed.parallel)
    memory = _size("--memory", speed.memory)
    with _naming(f"--memory {speed.memory}"):
        chosen = replace(chosen, memory=memory)
    if speed.part_size is not None:
        part_size = _size("--part-size", speed.part_size)
        with _naming(f"--part-size {speed.part_size}"):
            chosen = replace(chosen, part_size=part_size)
    return chosen


def _size(option: str, text: str) -> int:
    from bucketry.server.units import parse_size
    from bucketry.transfer.errors import NameUnusable

    try:
        return parse_size(text)
    except ValueError as error:
        raise NameUnusable(f"{option} {text} {error}") from None


@contextmanager
def _naming(option: str) -> Iterator[None]:
    from bucketry.transfer.errors import NameUnusable

    try:
        yield
    except ValueError as error:
        raise NameUnusable(f"{option}: {error}") from None


def tag_to_write(place: Place) -> str | None:
    """The tag that what is pushed gets: none where the name has a digest and no tag."""
    from bucketry.oci.reference import DEFAULT_TAG

    return place.tag if place.tag is not None or place.digest is not None else DEFAULT_TAG


def run(work: Callable[[Listener], Awaitable[object]], style: Style) -> int:
    """Runs a transfer, shows it, and gives the exit code. Ctrl-C and SIGTERM end it at once, so that it can go on."""
    import asyncio

    from bucketry.cli.progress import shown

    with shown(style) as listen:
        code = asyncio.run(until_signal(work(listen)))
    if code:
        complain("stopped. The same command goes on where it was stopped.")
    return code


async def until_signal(work: Awaitable[object]) -> int:
    """Awaits it; Ctrl-C and SIGTERM cancel it, and what is given then is the exit code, else 0."""
    import asyncio

    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    stopped: list[int] = []

    def stop(code: int) -> None:
        stopped.append(code)
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, stop, INTERRUPTED)
    loop.add_signal_handler(signal.SIGTERM, stop, TERMINATED)
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)
    return stopped[0] if stopped else 0
