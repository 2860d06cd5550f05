"""``bucketry token``: robots of a registry, on its store directly, so that no server needs to run."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from bucketry.cli.options import Common, ConfigOptions, load_config
from bucketry.cli.output import complain, console, write, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bucketry.access import Action, RobotRecord
    from bucketry.registry.robots import Robots
    from bucketry.server.config import Config
    from bucketry.store.contract import Store

CREATE_EXAMPLES = """
A robot that pushes what a team builds, for three months:

    bucketry token create ci --repository 'team/**' --allow pull,push,overwrite --expires 90d --store s3://my-bucket

Into a file that nobody else may read:

    umask 077; bucketry token create ci --repository 'team/**' --allow pull --store s3://my-bucket -q > token.txt
"""

LIST_EXAMPLES = """
Who has a token, for what, and until when:

    bucketry token list --store s3://my-bucket
"""

REVOKE_EXAMPLES = """
A token got into the wrong hands:

    bucketry token revoke ci --store s3://my-bucket
"""

FAILED, USAGE = 1, 2
LONGEST = 3650 * 86400.0
"""Seconds: the longest life that may be asked for. Without one a token has no end."""

_T = TypeVar("_T")
_STORE = Parameter(
    name="--store",
    metavar="URL",
    help="The registry's store: `s3://BUCKET/PREFIX` or a folder. Default: the configured one, or `./bucketry-data`",
)
_JSON = Parameter(name="--json", negative=(), help="Print the result as JSON.")


def create(
    name: Annotated[str, Parameter(help="The robot's name: lower-case letters and digits, with single `.` `_` `-`.")],
    /,
    *,
    repository: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="GLOB",
            negative=(),
            help="What it is for. `*` stands for any characters but `/`, `**` for any. May be given several times.",
        ),
    ],
    allow: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="ACTIONS",
            negative=(),
            help="What it may do, with commas: `pull`, `push`, `overwrite` (move a tag), `delete`, `catalog`, `admin`.",
        ),
    ],
    expires: Annotated[
        str | None,
        Parameter(metavar="DURATION", help="How long it is good for, such as `90d` or `12h`. Default: until revoked."),
    ] = None,
    store: Annotated[str | None, _STORE] = None,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative=(), help="Print the token only.")] = False,
    json: Annotated[bool, _JSON] = False,
    config: ConfigOptions = ConfigOptions(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008
) -> int:
    """Make a robot: a token that a program uses as its password, with a list of rights of its own.

    The token is printed once, to standard output; the store has only a hash of it. Every server of the store takes it
    from then on, beside what the rules say. What it is good for is said on standard error.
    """
    import secrets

    from bucketry.access import RobotRecord, make_token
    from bucketry.access.robots import SECRET_SIZE, token_digest
    from bucketry.registry.access_folder import exposure

    now = time.time()
    try:
        _named(name)
        repositories = _globs(repository)
        actions = _actions(allow)
        until = None if expires is None else now + _life(expires)
    except _Wrong as error:
        complain(str(error))
        return USAGE
    token = make_token(name, secrets.token_bytes(SECRET_SIZE))
    record = RobotRecord(
        name=name,
        repositories=repositories,
        actions=actions,
        created=now,
        digest=token_digest(token),
        expires=until,
    )
    settings = load_config(config, {"--store": store}).config

    async def make(robots: Robots, store: Store) -> None:
        await robots.create(record)
        exposed = exposure(store)
        if exposed is not None:
            sys.stderr.write(f"bucketry: warning: {exposed}\n")

    code, _ = _run(settings, make)
    if code:
        return code
    if json:
        write_json({"token": token, **_document(record, now)})
        return 0
    write(token)
    if not quiet:
        sys.stdout.flush()
        for line in _story(record, settings):
            sys.stderr.write(f"{line}\n")
    return 0


def list_(
    *,
    store: Annotated[str | None, _STORE] = None,
    json: Annotated[bool, _JSON] = False,
    config: ConfigOptions = ConfigOptions(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008
) -> int:
    """List the robots of a registry: what each may do, where, and until when. Tokens are not shown: nobody has them."""
    settings = load_config(config, {"--store": store}).config

    async def look(robots: Robots, store: Store) -> tuple[RobotRecord, ...]:
        return await robots.list()

    code, records = _run(settings, look)
    if records is None:
        return code
    now = time.time()
    if json:
        write_json([_document(record, now) for record in records])
    elif records:
        _print(records, now)
    else:
        write(f"There are no robots in {settings.store.url}")
    return 0


def revoke(
    name: Annotated[str, Parameter(help="The robot's name.")],
    /,
    *,
    store: Annotated[str | None, _STORE] = None,
    json: Annotated[bool, _JSON] = False,
    config: ConfigOptions = ConfigOptions(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008
) -> int:
    """End a robot's token for good. A new robot may have its name afterwards."""
    settings = load_config(config, {"--store": store}).config
    try:
        _named(name)
    except _Wrong as error:
        complain(str(error))
        return USAGE
    now = time.time()

    async def end(robots: Robots, store: Store) -> RobotRecord:
        return await robots.revoke(name)

    code, record = _run(settings, end)
    if record is None:
        return code
    if json:
        write_json(_document(record, now))
    elif record.revoked is not None and record.revoked < now:
        write(f"The token of robot {name} was revoked before, {_when(record.revoked)}")
    else:
        from bucketry.server.units import format_duration

        within = format_duration(settings.access.reload)
        write(f"The token of robot {name} is revoked: servers refuse it within {within} (their access.reload)")
    return 0


# What was typed


class _Wrong(Exception):
    """One line for the person who typed it."""


def _named(name: str) -> None:
    from bucketry.access import PrincipalInvalid
    from bucketry.access.principal import check_name

    try:
        check_name("robot", name)
    except PrincipalInvalid as error:
        raise _Wrong(str(error)) from None


def _globs(patterns: Sequence[str]) -> tuple[str, ...]:
    from bucketry.access.languages import can_match
    from bucketry.access.patterns import repository_glob
    from bucketry.oci.errors import NameInvalid

    for pattern in patterns:
        try:
            repository_glob(pattern)
        except NameInvalid as error:
            raise _Wrong(f"--repository: {error.message}") from None
        if not can_match(pattern):
            raise _Wrong(f"--repository: {pattern!a} matches no name that a repository can have")
    return tuple(dict.fromkeys(patterns))


def _actions(texts: Sequence[str]) -> tuple[Action, ...]:
    from bucketry.access import Action, nearest_action
    from bucketry.access.actions import in_order
    from bucketry.oci.text import quoted

    actions = []
    for text in (one.strip() for given in texts for one in given.split(",")):
        try:
            actions.append(Action(text))
        except ValueError:
            near = nearest_action(text)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(Action)}"
            raise _Wrong(f"--allow: {quoted(text)} is no action; {hint}") from None
    return in_order(actions)


def _life(text: str) -> float:
    from bucketry.oci.text import quoted
    from bucketry.server.units import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError:
        raise _Wrong(
            f"--expires: {quoted(text)} is not a duration; write 90d, 12h or 30m, or leave it out for a token without "
            "an end"
        ) from None
    if not 1 <= seconds <= LONGEST:
        raise _Wrong(f"--expires: {quoted(text)} is not between 1s and {LONGEST / 86400:.0f}d")
    return seconds


# The store


def _run(settings: Config, work: Callable[[Robots, Store], Awaitable[_T]]) -> tuple[int, _T | None]:
    """The exit code and, where that is 0, what ``work`` gave. Raises `StoreError`."""
    import asyncio

    from bucketry.access import AccessError
    from bucketry.registry.robots import RobotUnknown

    try:
        return 0, asyncio.run(_on_store(settings, work))
    except _Wrong as error:
        complain(str(error))
    except RobotUnknown as error:
        complain(f"{error} in {settings.store.url}; `bucketry token list` shows those that are there")
    except AccessError as error:
        complain(str(error))
    return FAILED, None


async def _on_store(settings: Config, work: Callable[[Robots, Store], Awaitable[_T]]) -> _T:
    from bucketry.registry import Registry
    from bucketry.registry.robots import Robots
    from bucketry.registry.settings import SystemClock
    from bucketry.store.open import open_store

    store = open_store(settings.store.url, settings.store.options())
    try:
        if settings.store.url.lower() == "memory:" or not await _holds_registry(store):
            raise _Wrong(
                f"there is no registry in {store.url}: name the store of your server with --store, or begin one with "
                "`bucketry serve --store …`"
            )
        # It refuses what a newer version wrote.
        registry = await Registry.open(store)
        try:
            return await work(Robots(store, clock=SystemClock(), reload=0), store)
        finally:
            await registry.close()
    finally:
        await store.close()


async def _holds_registry(store: Store) -> bool:
    """A token in a store that no server serves would be good for nothing, and a folder is made when it is opened."""
    from bucketry.registry import layout
    from bucketry.store.contract import Corrupt, LocalFiles, NotFound

    if isinstance(store, LocalFiles) and not Path(store.file_path("data/~")).parent.parent.is_dir():
        return False
    await store.start()
    try:
        await store.head(layout.FORMAT_KEY)
    except (NotFound, Corrupt):
        return False
    return True


# What is said


def _document(record: RobotRecord, now: float) -> dict[str, object]:
    return {
        "name": record.name,
        "state": _state(record, now),
        "repositories": list(record.repositories),
        "allow": [action.value for action in record.actions],
        "created": _rfc3339(record.created),
        "expires": None if record.expires is None else _rfc3339(record.expires),
        "revoked": None if record.revoked is None else _rfc3339(record.revoked),
    }


def _state(record: RobotRecord, now: float) -> str:
    if record.revoked is not None:
        return "revoked"
    return "expired" if record.expires is not None and record.expires <= now else "good"


def _story(record: RobotRecord, settings: Config) -> list[str]:
    """For whoever made the token, and has to put it somewhere now."""
    from bucketry.access import Action

    until = "until it is revoked" if record.expires is None else f"until {_when(record.expires)}"
    lines = [
        "",
        f"Above is the token of robot {record.name}. It is shown this once: keep it where secrets are kept.",
        f"  may      {', '.join(record.actions)}",
        f"  on       {', '.join(record.repositories)}",
        f"  good     {until}",
    ]
    if Action.PUSH in record.actions and not {Action.OVERWRITE, Action.ADMIN} & set(record.actions):
        lines.append("  not      to move a tag that is there, such as latest: that is overwrite")
    if record.repositories == ("*",):
        lines.append("  note     * is one part of a name: ** is for names such as team/app, too")
    return [
        *lines,
        "",
        "Log in with it, in place of a password (token.txt: a file that holds it, and only you may read):",
        f"  docker login {_host(settings)} -u {record.name} --password-stdin < token.txt",
        "End it:",
        f"  bucketry token revoke {record.name} --store {shlex.quote(settings.store.url)}",
    ]


def _host(settings: Config) -> str:
    if settings.server.public_url is not None:
        return settings.server.public_url.partition("://")[2]
    host = settings.server.host
    return f"localhost:{settings.server.port}" if host in ("127.0.0.1", "::1", "localhost") else "HOST"


def _print(records: Sequence[RobotRecord], now: float) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False)
    for header in ("name", "state", "may", "on", "until"):
        table.add_column(header, overflow="fold")
    for record in records:
        state = _state(record, now)
        until = "revoked" if record.expires is None else _when(record.expires)
        if record.revoked is not None:
            until = _when(record.revoked)
        table.add_row(
            record.name,
            Text(state, "green" if state == "good" else "yellow"),
            Text(", ".join(record.actions)),
            Text(", ".join(record.repositories)),
            until,
        )
    console().print(table)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
