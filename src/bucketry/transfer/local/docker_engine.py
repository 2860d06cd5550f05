"""The Docker Engine's API: the few calls that images need, over its socket.

Where the engine is, is found as the docker command finds it: ``DOCKER_HOST``, else the active context (from
``DOCKER_CONTEXT``, or ``currentContext`` in ``~/.docker/config.json``), else ``/var/run/docker.sock``. It is a unix
socket, or plain TCP.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec

from bucketry.oci.text import quoted
from bucketry.transfer.errors import (
    ImageMissing,
    Misconfigured,
    NameUnusable,
    NoSpace,
    NotPermitted,
    Refused,
    TransferError,
    Unreachable,
)

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
OTHER_WAY: Final = "without a Docker Engine, docker-archive:FILE reads and writes what docker save writes"

_PIECE: Final = 1024 * 1024
_ANSWER: Final = 64 * 1024 * 1024
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """``host`` as in DOCKER_HOST; ``origin`` says where it was found."""

    host: str
    origin: str

    @property
    def socket(self) -> str | None:
        """The path of a unix socket."""
        return self.host.removeprefix("unix://") if self.host.startswith("unix://") else None

    def __str__(self) -> str:
        return f"{self.socket or self.host} ({self.origin})" if self.origin else (self.socket or self.host)


class _Config(msgspec.Struct, rename="camel"):
    current_context: str = ""


class _Endpoint(msgspec.Struct, rename="pascal"):
    host: str = ""


class _Context(msgspec.Struct, rename="pascal"):
    endpoints: dict[str, _Endpoint] = {}


def find_engine(env: Mapping[str, str], home: Path) -> EngineAddress:
    """Raises `NameUnusable` for an address that is not supported, `Misconfigured` for a file that cannot be read."""
    host = env.get("DOCKER_HOST", "")
    if host:
        return _checked(EngineAddress(host, "from DOCKER_HOST"), tls=bool(env.get("DOCKER_TLS_VERIFY")))
    folder = Path(env["DOCKER_CONFIG"]) if env.get("DOCKER_CONFIG") else home / ".docker"
    config = _read(folder / "config.json", _Config)
    context = env.get("DOCKER_CONTEXT") or (config.current_context if config else "")
    if context in ("", "default"):
        return EngineAddress(DEFAULT_HOST, "")
    name = hashlib.sha256(context.encode()).hexdigest()
    found = _read(folder / "contexts" / "meta" / name / "meta.json", _Context)
    endpoint = None if found is None else found.endpoints.get("docker")
    if endpoint is None or not endpoint.host:
        raise Misconfigured(f"there is no docker context {quoted(context)}: see docker context ls, or set DOCKER_HOST")
    tls = (folder / "contexts" / "tls" / name / "docker").exists()
    return _checked(EngineAddress(endpoint.host, f"from the docker context {quoted(context)}"), tls=tls)


def _read(path: Path, form: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=form)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}") from error


def _checked(address: EngineAddress, *, tls: bool) -> EngineAddress:
    kind, _, rest = address.host.partition("://")
    if kind == "unix" and rest.startswith("/"):
        return address
    if kind == "tcp" and not tls:
        with contextlib.suppress(ValueError):
            parts = urlsplit(address.host)
            if parts.hostname and parts.port and not parts.path.strip("/"):
                return address
    raise NameUnusable(
        f"{quoted(address.host)}{' with TLS' * tls}, {address.origin}, is not supported: bucketry speaks to a "
        f"Docker Engine over unix:///path or plain tcp://host:port; {OTHER_WAY}"
    )


class _Error(msgspec.Struct):
    message: str = ""


class _RootFS(msgspec.Struct, rename="pascal"):
    layers: tuple[str, ...] | None = None


class ImageFacts(msgspec.Struct, frozen=True, rename="pascal"):
    """What the engine says of an image. ``size`` in bytes, unpacked."""

    id: str
    size: int = 0
    root_fs: _RootFS | None = msgspec.field(default=None, name="RootFS")

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return () if self.root_fs is None else self.root_fs.layers or ()


class ListedImage(msgspec.Struct, frozen=True, rename="pascal"):
    """An image in the engine's list. ``created`` in POSIX seconds."""

    id: str = ""
    created: int = 0
    repo_tags: tuple[str, ...] | None = None


class _Info(msgspec.Struct, rename="pascal"):
    driver_status: tuple[tuple[str, ...], ...] | None = None


class _Component(msgspec.Struct, rename="pascal"):
    name: str = ""


class _Version(msgspec.Struct, rename="pascal"):
    components: tuple[_Component, ...] | None = None


class _Progress(msgspec.Struct, rename="camel"):
    stream: str | None = None
    error: str | None = None


class DockerEngine:
    """A client of one engine. `close` when done."""

    def __init__(self, address: EngineAddress) -> None:
        self.address = address
        self._session: aiohttp.ClientSession | None = None
        self._base = ""
        self._version: tuple[int, ...] = ()

    async def api_version(self) -> tuple[int, ...]:
        """Such as (1, 41): the engine's own, which all calls use. Raises `Unreachable`, `NotPermitted`."""
        await self._open()
        return self._version

    async def inspect(self, name: str) -> ImageFacts:
        """Raises `ImageMissing`, naming what is like it."""
        found = await self.find(name)
        if found is None:
            raise ImageMissing(await self._missing(name))
        return found

    async def find(self, name: str) -> ImageFacts | None:
        """An image by its name or id; None where there is none."""
        async with self._call("GET", f"/images/{_quoted(name)}/json") as answer:
            if answer.status == 404:
                return None
            return _decode(await _body(answer), ImageFacts, self.address)

    async def images(self) -> Sequence[ListedImage]:
        """All images that have a name, or no other image above them."""
        async with self._call("GET", "/images/json") as answer:
            return _decode(await _body(answer), tuple[ListedImage, ...], self.address)

    async def tags(self) -> Sequence[str]:
        """Names of all images, with their tags."""
        found = await self.images()
        return sorted({tag for image in found for tag in image.repo_tags or () if tag != "<none>:<none>"})

    async def keeps_chains(self) -> bool:
        """Whether it looks for each layer among those it has, before it looks for it in an archive that it loads.

        So does Docker's own engine with its classic image store. The image store of containerd wants all files, as
        does Podman, which answers the same calls. False where the engine does not say.
        """
        try:
            async with self._call("GET", "/version") as answer:
                version = _decode(await _body(answer), _Version, self.address)
            async with self._call("GET", "/info") as answer:
                info = _decode(await _body(answer), _Info, self.address)
        except Refused:
            return False
        driver = {line[0]: line[-1] for line in info.driver_status or () if line}
        return "Engine" in {part.name for part in version.components or ()} and driver.get("driver-type") is None

    async def tag(self, image: str, name: str) -> bool:
        """Calls an image that it has ``name``, which has a tag; False where it has no such image any more."""
        repository, _, tag = name.rpartition(":")
        query = urlencode({"repo": repository, "tag": tag})
        async with self._call("POST", f"/images/{_quoted(image)}/tag?{query}") as answer:
            return answer.status != 404

    async def export(self, name: str) -> AsyncIterator[bytes]:
        """What ``docker save`` writes, in pieces of at most 1 MiB. Raises `ImageMissing`, `Unreachable`."""
        async with self._call("GET", f"/images/{_quoted(name)}/get") as answer:
            if answer.status == 404:
                raise ImageMissing(await self._missing(name))
            async for piece in answer.content.iter_chunked(_PIECE):
                yield piece

    async def load(self, archive: AsyncIterator[bytes]) -> str:
        """As ``docker load``; gives what the engine said. Raises `NoSpace`, `Refused`, `Unreachable`."""
        said: list[str] = []
        async with self._call("POST", "/images/load?quiet=1", archive) as answer:
            for line in filter(bytes.strip, (await _body(answer)).splitlines()):
                progress = _decode(line, _Progress, self.address)
                if progress.error is not None:
                    raise self._load_error(progress.error)
                said.append(progress.stream or "")
        return "".join(said).strip()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _open(self) -> aiohttp.ClientSession:
        if self._session is not None:
            return self._session
        if self.address.socket is not None:
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(self.address.socket)
            base = "http://docker"
        else:
            connector = aiohttp.TCPConnector()
            base = "http://" + self.address.host.partition("://")[2].rstrip("/")
        # The engine may prepare an image for minutes before its first byte; proxies of the environment are not for it.
        timeout = aiohttp.ClientTimeout(total=None, connect=30)
        session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False, auto_decompress=False)
        try:
            with self._translated():
                async with session.get(f"{base}/_ping", timeout=aiohttp.ClientTimeout(total=30)) as answer:
                    version = answer.headers.get("Api-Version", "1.24")
                    if answer.status != 200:
                        raise Refused(f"what answers at {self.address} is no Docker Engine: status {answer.status}")
            try:
                self._version = tuple(int(part) for part in version.split("."))
            except ValueError:
                raise Refused(
                    f"what answers at {self.address} is no Docker Engine: version {quoted(version)}"
                ) from None
        except BaseException:
            await session.close()
            raise
        self._base = f"{base}/v{version}"
        self._session = session
        return session

    @asynccontextmanager
    async def _call(
        self, method: str, path: str, body: AsyncIterator[bytes] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = await self._open()
        headers = {} if body is None else {"Content-Type": "application/x-tar"}
        with self._translated():
            async with session.request(method, self._base + path, data=body, headers=headers) as answer:
                if answer.status >= 400 and answer.status != 404:
                    message = _message(await _body(answer)) or f"status {answer.status}"
                    if body is not None:
                        raise self._load_error(message)
                    raise Refused(f"the Docker Engine at {self.address} refused: {message}")
                yield answer

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            raise self._connect_error(error.os_error) from error
        except TimeoutError as error:
            raise Unreachable(f"the Docker Engine at {self.address} does not answer") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"the connection to the Docker Engine at {self.address} broke: {error}") from error

    def _connect_error(self, error: OSError) -> TransferError:
        if error.errno in (errno.EACCES, errno.EPERM):
            return NotPermitted(
                f"you may not use the Docker Engine at {self.address}: join the group docker "
                "(sudo usermod -aG docker $USER, then log in again), or run this as root"
            )
        why = error.strerror or str(error)
        return Unreachable(f"no Docker Engine answers at {self.address}: {why}: start it; {OTHER_WAY}")

    def _load_error(self, message: str) -> TransferError:
        if "no space left on device" in message.lower():
            return NoSpace(
                f"the Docker Engine at {self.address} has no space left: try docker system prune ({message})"
            )
        return Refused(f"the Docker Engine at {self.address} did not load the image: {message}")

    async def _missing(self, name: str) -> str:
        tags = await self.tags()
        repository = name.rpartition(":")[0]
        same = [tag for tag in tags if tag.rpartition(":")[0] == repository]
        close = list(dict.fromkeys([*same, *difflib.get_close_matches(name, tags, n=5)]))[:5]
        hint = f"; there is {', '.join(close)}" if close else "; see docker images"
        return f"the Docker Engine at {self.address} has no image {quoted(name)}{hint}"


def _quoted(name: str) -> str:
    return quote(name, safe="/:")


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in answer.content.iter_chunked(_PIECE):
        data += piece
        if len(data) > _ANSWER:
            raise Refused("the answer of the Docker Engine has no end")
    return bytes(data)


def _decode(data: bytes, form: type[_T], address: EngineAddress) -> _T:
    try:
        return msgspec.json.decode(data, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(f"the answer of the Docker Engine at {address} cannot be read: {error}") from error


def _message(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=_Error).message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
