"""Credential helpers: the programs ``docker-credential-NAME``, and their protocol.

``get`` and ``erase`` read a registry's name from standard input, ``store`` and the answer of ``get`` are JSON:
``{"ServerURL": …, "Username": …, "Secret": …}``. A program that fails says why on standard output.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from bucketry.transfer.errors import Misconfigured
from bucketry.transfer.remote.answer import clean

TIMEOUT: Final = 60.0
"""Seconds for a helper: some ask a person to unlock something."""

TOKEN_USER: Final = "<token>"
"""The user's name by which a helper says that the secret is an identity token."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_NOT_FOUND: Final = ("credentials not found", "credentials server url missing", "could not be found in the keychain")

Verb: TypeAlias = Literal["get", "store", "erase"]


@dataclass(frozen=True, slots=True)
class Finished:
    """A helper's end. ``output`` may hold secrets."""

    code: int
    output: bytes = field(repr=False)


Run: TypeAlias = Callable[[str, Verb, bytes], Awaitable[Finished]]
"""Runs a program with a verb and its standard input. Raises `OSError`, and `TimeoutError`."""


async def run_program(program: str, verb: Verb, given: bytes) -> Finished:
    """As `Run`: found in PATH; ended after `TIMEOUT`, or where the caller is cancelled."""
    process = await asyncio.create_subprocess_exec(
        program,
        verb,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            output, _ = await process.communicate(given)
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    return Finished(process.returncode or 0, output)


@dataclass(frozen=True, slots=True)
class Helper:
    """The helper ``name``, which ``file`` names. Its errors are `Misconfigured`, and name both."""

    name: str
    file: str
    run: Run = field(default=run_program, repr=False)

    @property
    def program(self) -> str:
        return f"docker-credential-{self.name}"

    @property
    def origin(self) -> str:
        """For messages: where credentials came from."""
        return f"{self.program} ({self.file})"

    async def get(self, server: str) -> tuple[str, str] | None:
        """User and secret; None where it has none."""
        finished = await self._run("get", server.encode())
        if finished.code:
            if any(known in finished.output.decode("utf-8", "replace").lower() for known in _NOT_FOUND):
                return None
            raise self._failed("get", finished)
        try:
            document = json.loads(finished.output)
            user, secret = document["Username"], document["Secret"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Misconfigured(f"{self.origin} does not answer as credential helpers do") from None
        if not isinstance(user, str) or not isinstance(secret, str) or not is_text(user + secret):
            raise Misconfigured(f"{self.origin} does not answer as credential helpers do")
        return (user, secret) if secret else None

    async def store(self, server: str, user: str, secret: str) -> None:
        given = json.dumps({"ServerURL": server, "Username": user, "Secret": secret})
        finished = await self._run("store", given.encode())
        if finished.code:
            raise self._failed("store", finished, secret)

    async def erase(self, server: str) -> bool:
        """Whether it had anything to erase, as far as it says."""
        finished = await self._run("erase", server.encode())
        if finished.code and not any(word in finished.output.decode("utf-8", "replace").lower() for word in _NOT_FOUND):
            raise self._failed("erase", finished)
        return finished.code == 0

    async def _run(self, verb: Verb, given: bytes) -> Finished:
        if _NAME.fullmatch(self.name) is None:
            raise Misconfigured(f"{self.file}: {clean(ascii(self.name))} is no name of a credential helper")
        try:
            return await self.run(self.program, verb, given)
        except FileNotFoundError:
            raise Misconfigured(
                f"{self.file} names the credential helper {self.program}, which is not in PATH: "
                "install it, or take it out of the file"
            ) from None
        except TimeoutError:
            raise Misconfigured(f"{self.origin} did not answer within {TIMEOUT:g} s") from None
        except OSError as error:
            raise Misconfigured(f"{self.origin} cannot be run: {error.strerror or error}") from None

    def _failed(self, verb: Verb, finished: Finished, secret: str = "") -> Misconfigured:
        said = finished.output.decode("utf-8", "replace")
        if secret:
            said = said.replace(secret, "***")
        return Misconfigured(f"{self.origin} failed to {verb}: {clean(said) or f'exit code {finished.code}'}")


def is_text(text: str) -> bool:
    """Whether it can be sent: JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
