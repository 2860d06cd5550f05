"""``bucketry copy``: images from one repository to another, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bucketry.cli.moving import OnePlatform, OutputOptions, Referrers, SpeedOptions, run, settings, tag_to_write
from bucketry.cli.options import Common, ConfigOptions, store_options
from bucketry.cli.output import complain, write

if TYPE_CHECKING:
    from bucketry.cli.progress import Style
    from bucketry.store.open import StoreOptions
    from bucketry.transfer.events import Ended, Listener
    from bucketry.transfer.settings import TransferSettings

FAILED = 1
FAILURES_SHOWN = 10

EXAMPLES = """
From one registry to another, signatures and SBOMs included:

    bucketry copy old.example.com/app:v1 new.example.com/app:v1 --referrers

Every tag of a repository, into a bucket, without a server:

    bucketry copy old.example.com/app s3://my-bucket/registry/app --all-tags

A whole registry, or what is below `team` in it:

    bucketry copy --all old.example.com s3://my-bucket/registry
    bucketry copy --all a.example.com b.example.com --repository 'team/**'
"""


def copy(
    source: Annotated[
        str,
        Parameter(
            help="`HOST/NAME[:TAG][@DIGEST]`, `s3://BUCKET/PREFIX/NAME:TAG`, `file:/FOLDER/NAME:TAG`, `oci:DIR[:TAG]` "
            "or `oci-archive:FILE[:TAG]`. With `--all`: `HOST[/PREFIX]`, `s3://BUCKET/PREFIX` or `file:/FOLDER`."
        ),
    ],
    dest: Annotated[
        str,
        Parameter(
            help="`HOST/NAME[:TAG]`, `s3://BUCKET/PREFIX/NAME:TAG` or `file:/FOLDER/NAME:TAG`. With `--all` as the "
            "source."
        ),
    ],
    /,
    *,
    all_tags: Annotated[bool, Parameter(negative=(), help="Every tag of the source, under the same names.")] = False,
    all: Annotated[
        bool, Parameter(negative=(), help="Every repository of a registry, or of what is below a prefix in it.")
    ] = False,
    repository: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="GLOB",
            negative=(),
            help="With `--all`: only these, named as below the prefix. `*` stands for any characters but `/`, `**` for "
            "any. May be given several times.",
        ),
    ] = (),
    platform: OnePlatform = None,
    referrers: Referrers = False,
    insecure: Annotated[
        bool, Parameter(negative=(), help="Allow plain http to registries that are not on this machine.")
    ] = False,
    speed: SpeedOptions = SpeedOptions(),  # noqa: B008 (frozen)
    output: OutputOptions = OutputOptions(),  # noqa: B008
    config: ConfigOptions = ConfigOptions(),  # noqa: B008
    common: Common = Common(),  # noqa: B008
) -> int:
    """Copy images between repositories: digests stay the same, and what is there already is not sent.

    Nothing is kept on this machine: pieces are read and sent in parallel. A copy that was stopped goes on where it was.
    """
    from bucketry.transfer.errors import NameUnusable
    from bucketry.transfer.names import parse_place

    if repository and not all:
        raise NameUnusable("--repository goes with --all: it says which repositories of a registry are meant")
    if all:
        if all_tags:
            raise NameUnusable("--all copies every tag of every repository: leave out --all-tags")
        return _copy_all(
            source,
            dest,
            repository,
            settings(speed, platform=platform, referrers=referrers),
            store_options(config),
            insecure=insecure,
            style=output.style,
        )
    whence, whither = parse_place(source, role="copy from"), parse_place(dest, role="copy to")
    if all_tags and (whence.tag or whence.digest or whither.tag or whither.digest):
        raise NameUnusable("--all-tags goes with names that have no tag: their tags are copied under the same names")
    if whither.digest is not None:
        raise NameUnusable(f"{dest}: a digest is what comes out of a copy; name a tag, or none")
    chosen = settings(speed, platform=platform, referrers=referrers)
    options = store_options(config)

    async def work(listen: Listener) -> Ended:
        from bucketry.transfer.copy import copy as transfer
        from bucketry.transfer.places import Opening, mountable, open_source, open_target

        async with AsyncExitStack() as stack:
            opening = Opening(chosen, options=options, insecure=insecure)
            stack.push_async_callback(opening.close)
            images = await open_source(whence, opening)
            stack.push_async_callback(images.close)
            target = await open_target(whither, opening)
            stack.push_async_callback(target.close)
            return await transfer(
                images,
                target,
                tag=whence.tag if whither.tag is None and whence.tag else tag_to_write(whither),
                settings=chosen,
                listen=listen,
                tags=await images.tags() if all_tags else None,
                mount_from=mountable(whence, whither),
            )

    return run(work, output.style)


def _copy_all(
    source: str,
    dest: str,
    patterns: Sequence[str],
    chosen: TransferSettings,
    options: StoreOptions,
    *,
    insecure: bool,
    style: Style,
) -> int:
    from bucketry.oci.errors import OCIError
    from bucketry.oci.glob import RepositoryGlob
    from bucketry.transfer.errors import NameUnusable
    from bucketry.transfer.homes import parse_home

    whence, whither = parse_home(source), parse_home(dest)
    try:
        globs = [RepositoryGlob(pattern) for pattern in patterns]
    except OCIError as error:
        raise NameUnusable(f"--repository: {error.message}") from error
    failed: list[tuple[str, str]] = []

    async def work(listen: Listener) -> None:
        from bucketry.transfer.copy_all import copy_all
        from bucketry.transfer.homes import open_home
        from bucketry.transfer.places import Opening
        from bucketry.transfer.wording import counted

        async with AsyncExitStack() as stack:
            opening = Opening(chosen, options=options, insecure=insecure)
            stack.push_async_callback(opening.close)
            home = await open_home(whence, opening, write=False)
            stack.push_async_callback(home.close)
            target = await open_home(whither, opening, write=True)
            stack.push_async_callback(target.close)
            copied = await copy_all(home, target, globs=globs, settings=chosen, listen=listen)
        failed.extend(copied.failed)
        if style != "json":
            write(f"{counted(copied.repositories, 'repository', 'repositories')}, {counted(copied.tags, 'tag')}")

    code = run(work, style)
    if failed:
        shown = "; ".join(f"{name} ({why})" for name, why in failed[:FAILURES_SHOWN])
        more = f"; and {len(failed) - FAILURES_SHOWN} more" if len(failed) > FAILURES_SHOWN else ""
        complain(f"not, or not wholly, copied: {shown}{more}. The same command goes on with them.")
    return code or (FAILED if failed else 0)
