"""``bucketry login`` and ``bucketry logout``: credentials of registries, where docker has them too."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bucketry.cli.options import Common
from bucketry.cli.output import complain, write

if TYPE_CHECKING:
    from bucketry.transfer.remote.credentials import Stored

LOGIN_EXAMPLES = """
With a prompt for the password:

    bucketry login registry.example.com -u alice

In a script:

    bucketry login registry.example.com -u ci --password-stdin < token.txt
"""

LOGOUT_EXAMPLES = """
Forget it again:

    bucketry logout registry.example.com
"""


def login(
    host: Annotated[str, Parameter(help="The registry: `HOST` or `HOST:PORT`; `docker.io` is Docker Hub.")],
    /,
    *,
    username: Annotated[
        str | None, Parameter(name=["--username", "-u"], metavar="USER", help="Default: asked for, in a terminal.")
    ] = None,
    password_stdin: Annotated[
        bool, Parameter(negative=(), help="Read the password, or a token, from standard input.")
    ] = False,
    insecure: Annotated[
        bool, Parameter(negative=(), help="Allow plain http: anybody on the way can then read the password.")
    ] = False,
    common: Common = Common(),  # noqa: B008 (frozen)
) -> int:
    """Check credentials for a registry with it, and keep them.

    They go where `docker login` keeps them: into the credential helper that ~/.docker/config.json names, else into
    that file. docker and other clients then use them too.
    """
    import asyncio

    host = _checked(host)
    if password_stdin and username is None:
        complain("--password-stdin needs the user's name beside it: -u USER")
        return 2
    if not password_stdin and not sys.stdin.isatty():
        complain("there is no terminal to ask for a password: -u USER --password-stdin reads it from standard input")
        return 2
    try:
        user = input("Username: ").strip() if username is None else username
        password = sys.stdin.readline().rstrip("\r\n") if password_stdin else _asked_for()
    except EOFError:
        user = password = ""
    if not user or not password or ":" in user:
        complain("a user's name without a colon and a password are needed")
        return 2
    stored, asked = asyncio.run(_login(host, user, password, insecure=insecure))
    write(f"Logged in to {host} as {user}. The credentials are kept in {stored.place}")
    if not asked:
        complain(f"{host} asked for no credentials, so nobody has checked these")
    if stored.warning is not None:
        complain(stored.warning)
    return 0


def logout(
    host: Annotated[str, Parameter(help="The registry: `HOST` or `HOST:PORT`; `docker.io` is Docker Hub.")],
    /,
    *,
    common: Common = Common(),  # noqa: B008 (frozen)
) -> int:
    """Remove the credentials for a registry from where `bucketry login` and `docker login` keep them."""
    import asyncio

    host = _checked(host)
    places, left = asyncio.run(_logout(host))
    for place in places:
        write(f"Logged out of {host}: removed from {place}")
    if not places:
        write(f"Not logged in to {host}")
    if left is not None:
        complain(f"there are still credentials for {host}, in {left}: remove them there")
    return 0


async def _login(host: str, user: str, password: str, *, insecure: bool) -> tuple[Stored, bool]:
    from bucketry.transfer.remote import CredentialStore, Session
    from bucketry.transfer.remote.credentials import Credentials, Given

    credentials = Credentials("what was typed", user, password)
    session = Session(Given(credentials), insecure=insecure)
    try:
        asked = await session.registry(host).check()
    finally:
        await session.close()
    return await CredentialStore.of_user().store(host, user, password), asked


async def _logout(host: str) -> tuple[tuple[str, ...], str | None]:
    from bucketry.transfer.remote import CredentialStore

    store = CredentialStore.of_user()
    places = await store.erase(host)
    left = await store.find(host)
    return places, None if left is None else left.origin


def _checked(host: str) -> str:
    """The registry's name as references have it. Raises `NameUnusable`."""
    from bucketry.oci import ImageReference
    from bucketry.oci.errors import OCIError
    from bucketry.transfer.errors import NameUnusable

    name = host.removeprefix("https://").removeprefix("http://").rstrip("/")
    if name in ("index.docker.io", "index.docker.io/v1"):  # as files and helpers have it
        name = "docker.io"
    if "/" in name:
        raise NameUnusable(f"{ascii(name)[:80]} is not a registry: write its host alone, such as registry.example.com")
    try:
        return ImageReference(name, "team/app").registry
    except OCIError as error:
        raise NameUnusable(error.message) from None


def _asked_for() -> str:
    import getpass

    return getpass.getpass("Password: ")
