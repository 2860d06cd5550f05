"""``bucketry access``: what a file of rules says, before a server reads it, and lines for a file of users."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bucketry.cli.options import Common
from bucketry.cli.output import complain, write

if TYPE_CHECKING:
    from bucketry.access import AccessFile, Principal, Users

CHECK_EXAMPLES = """
Before the file goes to the server:

    bucketry access check access.toml
"""

EXPLAIN_EXAMPLES = """
Who may do what:

    bucketry access explain user:alice push team/app --file access.toml

A job that presents an ID token:

    bucketry access explain oidc:github push team/app --file access.toml --claim repository_owner=acme
"""

HASH_EXAMPLES = """
With a prompt for the password:

    bucketry access hash alice >> htpasswd

In a script:

    bucketry access hash alice < password.txt >> htpasswd
"""

_FILE = Parameter(name="--file", metavar="FILE", help="The file of rules, in TOML.")


def check(
    file: Annotated[Path, Parameter(help="The file of rules, in TOML.")],
    /,
    *,
    common: Common = Common(),  # noqa: B008 (frozen)
) -> int:
    """Read a file of rules, and the file of users that it names, and say what is wrong with them.

    Warnings are about what is surely not meant, such as a rule that can never match. A file with warnings can be used.
    """
    from bucketry.access import UnusableFile
    from bucketry.transfer.wording import counted

    try:
        access = _read(file)
        users = _users(file, access)
    except UnusableFile as error:
        for problem in error.problems:
            complain(problem)
        return 2
    warnings = list(access.warnings)
    if users is not None:
        warnings += users.warnings
        warnings += [
            f"{file}: {place} names {who}, who is not in {access.users}"
            for who, place in access.named.items()
            if who.startswith("user:") and who.removeprefix("user:") not in users
        ]
    elif access.users is not None:
        warnings.append(f"{file}: {access.users} cannot be read here, so nobody looked whether it has the users' names")
    for warning in warnings:
        write(f"warning: {warning}")
    parts = [
        counted(len(access.rules), "rule"),
        counted(len(access.groups), "group"),
        counted(len(access.issuers), "issuer"),
        counted(len(access.immutables), "pattern of immutable tags", "patterns of immutable tags"),
    ]
    if users is not None:
        parts.append(counted(len(users), "user"))
    write(f"{file} can be used: {', '.join(parts)}; {counted(len(warnings), 'warning')}")
    return 0


def explain(
    principal: Annotated[
        str,
        Parameter(help="`user:NAME`, `robot:NAME`, `oidc:ISSUER`, `cert:CN=NAME`, `cert:DNS:HOST` or `anonymous`."),
    ],
    action: Annotated[str, Parameter(help="`pull`, `push`, `overwrite`, `delete`, `catalog` or `admin`.")],
    repository: Annotated[
        str | None, Parameter(help="Without it, it is about the whole registry, as `catalog` always is.")
    ] = None,
    /,
    *,
    file: Annotated[Path, _FILE],
    claim: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="NAME=VALUE",
            negative=(),
            help="A claim of the ID token; may be given several times, and for one claim too: it is then a list.",
        ),
    ] = (),
    common: Common = Common(),  # noqa: B008 (frozen)
) -> int:
    """Say whether somebody may do something, and which rule decides it.

    The exit code is 0 where it is allowed, and 1 where it is not.
    """
    from bucketry.access import AccessError, Action, UnusableFile, near_misses
    from bucketry.oci import parse_repository
    from bucketry.oci.errors import NameInvalid

    try:
        who = _principal(principal, claim)
        if repository is not None:
            parse_repository(repository)
        policy = _read(file).policy
    except UnusableFile as error:
        for problem in error.problems:
            complain(problem)
        return 2
    except (AccessError, NameInvalid) as error:
        complain(str(error))
        return 2
    if action not in set(Action):
        complain(f"{ascii(action)[:80]} is no action: there are {', '.join(Action)}")
        return 2
    decision = policy.decide(who, Action(action), repository)
    write(f"{'allowed' if decision.allowed else 'denied'}: {decision.reason}")
    if not decision.allowed:
        for line in near_misses(policy, who, Action(action), repository):
            write(f"  {line}")
    if who.kind == "robot":
        write(f"  {who} may do besides what its own list allows: that is in the store, and not looked at here")
    return 0 if decision.allowed else 1


def hash_(
    name: Annotated[str, Parameter(help="The user's name.")],
    /,
    *,
    common: Common = Common(),  # noqa: B008 (frozen)
) -> int:
    """Print a line for a file of users (htpasswd), with an argon2id hash of a password.

    The password is asked for in a terminal, or is the first line of standard input.
    """
    import os

    from bucketry.access import PrincipalInvalid, htpasswd_line
    from bucketry.access.htpasswd import SALT_SIZE

    password = _asked_for_twice() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if password is None:
        complain("the two were not the same")
        return 2
    try:
        write(htpasswd_line(name, password, salt=os.urandom(SALT_SIZE)))
    except PrincipalInvalid as error:
        complain(str(error))
        return 2
    except ValueError as error:
        complain(f"the password {error}")
        return 2
    return 0


def _read(file: Path) -> AccessFile:
    from bucketry.access import AccessFileInvalid, parse_access

    try:
        return parse_access(file.read_bytes().decode(), path=str(file))
    except UnicodeDecodeError:
        raise AccessFileInvalid([f"{file}: is not UTF-8 text"]) from None


def _users(file: Path, access: AccessFile) -> Users | None:
    """The users that the file names; None where it names none, or they cannot be read here."""
    from bucketry.access import parse_htpasswd

    if access.users is None:
        return None
    path = file.parent / access.users
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError:
        return None
    return parse_htpasswd(text, path=str(path))


def _principal(text: str, claims: tuple[str, ...]) -> Principal:
    from bucketry.access import Principal, PrincipalInvalid

    found: dict[str, str | tuple[str, ...]] = {}
    for claim in claims:
        name, equals, value = claim.partition("=")
        if not equals or not name:
            raise PrincipalInvalid(f"--claim {ascii(claim)[:80]}: write NAME=VALUE, such as repository_owner=acme")
        before = found.get(name)
        if before is None:
            found[name] = value
        else:
            found[name] = (*((before,) if isinstance(before, str) else before), value)
    return Principal.parse(text, claims=found)


def _asked_for_twice() -> str | None:
    """None where the two differ."""
    import getpass

    try:
        first = getpass.getpass("Password: ")
        return first if getpass.getpass("Again: ") == first else None
    except EOFError:
        return ""
