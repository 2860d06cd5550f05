"""A registry as a whole, or all of it below a prefix: which repositories it has, and each of them.

======================================== ========================================================
``host`` or ``host/team``                a registry, or what is below ``team`` in it
``s3://bucket/prefix``                   the registry in a bucket, without its server
``s3://bucket/prefix//team``             what is below ``team`` in it
``file:/folder`` or ``file:/folder//team`` the same of a registry in a folder
======================================== ========================================================

Repositories are named as below the prefix: ``team/app`` of ``host/team`` is ``app``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from bucketry.oci import ImageReference, parse_repository
from bucketry.oci.errors import OCIError
from bucketry.oci.reference import DEFAULT_REGISTRY
from bucketry.oci.text import quoted
from bucketry.transfer.contract import Source, Target
from bucketry.transfer.errors import NameUnusable

if TYPE_CHECKING:
    from bucketry.registry import Registry
    from bucketry.transfer.bucket import BucketRepository
    from bucketry.transfer.places import Opening
    from bucketry.transfer.remote import RemoteRepository, Session

FORMS: Final = "HOST, HOST/PREFIX, s3://BUCKET/PREFIX or file:/FOLDER"


class Repository(Source, Target, Protocol):
    """To read from and to write to."""


class Home(Protocol):
    @property
    def name(self) -> str: ...

    def repositories(self) -> AsyncGenerator[str]:
        """In the home's order. Raises `Refused` where it cannot tell, `ImageMissing` where no registry is there."""
        ...

    def repository(self, name: str) -> Repository:
        """Whether it exists is not asked. Raises `NameUnusable`."""
        ...

    def mount_from(self, source: Home, name: str) -> str | None:
        """The repository here that has the blobs of ``name`` of ``source``: None where that is elsewhere."""
        ...

    def inside(self, other: Home) -> bool:
        """Whether all that is here is in ``other`` too."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class HomeName:
    """``host`` or ``store`` is empty. ``prefix``: whole parts of names, or empty."""

    text: str
    host: str = ""
    store: str = ""
    prefix: str = ""


def parse_home(text: str) -> HomeName:
    """Raises `NameUnusable`."""
    if not text or not text.isprintable() or text != text.strip():
        raise NameUnusable(f"{quoted(text)} names no registry: write {FORMS}")
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("s3", "file"):
        lead = "//" if rest.startswith("//") else ""
        path, _, prefix = rest.removeprefix(lead).partition("//")
        if not path.strip("/") or (scheme == "s3" and not lead) or (scheme == "file" and lead):
            raise NameUnusable(f"{quoted(text)} names no registry: write {FORMS}")
        prefix = prefix.strip("/")
        return HomeName(text, store=f"{scheme}:{lead}{path.rstrip('/')}", prefix=_prefix(text, prefix))
    if "://" in text or (colon and scheme in ("oci", "oci-archive", "docker-archive", "docker-daemon")):
        raise NameUnusable(f"{quoted(text)} is no registry as a whole: write {FORMS}")
    if text.startswith(("/", ".")):
        raise NameUnusable(f"{quoted(text)} is a folder: write file:{text}")
    host, _, prefix = text.rstrip("/").partition("/")
    if ":" in prefix or "@" in prefix:
        raise NameUnusable(f"{quoted(text)} is one image: a whole registry is {FORMS}")
    try:
        found = ImageReference.parse(f"{host}/{prefix or 'a/b'}")
    except OCIError as error:
        raise NameUnusable(f"{quoted(text)}: {error.message}") from error
    if found.registry == DEFAULT_REGISTRY and host not in (DEFAULT_REGISTRY, "index.docker.io"):
        raise NameUnusable(
            f"{quoted(text)} has no host with a dot or a port: a whole registry is {FORMS} (a folder: file:./{text})"
        )
    return HomeName(text, host=found.registry, prefix=prefix)


def _prefix(text: str, prefix: str) -> str:
    try:
        return parse_repository(prefix) if prefix else ""
    except OCIError as error:
        raise NameUnusable(f"{quoted(text)}: {error.message}") from error


async def open_home(name: HomeName, opening: Opening, *, write: bool) -> Home:
    """Raises `TransferError`; with ``write`` a registry is made in a store that has none."""
    if name.host:
        return RegistryHome(opening.session(), name.host, name.prefix)
    from bucketry.transfer.places import open_registry

    registry = await open_registry(name.store, opening, write=write)
    return BucketHome(registry, name.prefix)


class RegistryHome:
    """Of a registry that is spoken to over HTTP. The session is its owner's to close."""

    def __init__(self, session: Session, host: str, prefix: str) -> None:
        self._session = session
        self._prefix = prefix
        self.host = host

    @property
    def name(self) -> str:
        return f"{self.host}/{self._prefix}" if self._prefix else self.host

    async def repositories(self) -> AsyncGenerator[str]:
        from bucketry.transfer.remote.catalog import repositories

        async with aclosing(repositories(self._session.registry(self.host))) as names:
            async for name in names:
                inside = _inside(self._prefix, name)
                if inside is not None:
                    yield inside

    def repository(self, name: str) -> RemoteRepository:
        from bucketry.transfer.remote import RemoteRepository

        try:
            return RemoteRepository(self._session, ImageReference(self.host, _below(self._prefix, name)))
        except OCIError as error:
            raise NameUnusable(f"{self.name}: {error.message}") from error

    def mount_from(self, source: Home, name: str) -> str | None:
        if isinstance(source, RegistryHome) and source.host == self.host:
            return _below(source._prefix, name)
        return None

    def inside(self, other: Home) -> bool:
        return isinstance(other, RegistryHome) and other.host == self.host and _is_below(self._prefix, other._prefix)

    async def close(self) -> None:
        """Nothing of its own."""


class BucketHome:
    """Of a registry that is opened in this process; closes it, and its store."""

    def __init__(self, registry: Registry, prefix: str) -> None:
        self._registry = registry
        self._prefix = prefix

    @property
    def name(self) -> str:
        url = self._registry.store.url
        return f"{url}//{self._prefix}" if self._prefix else url

    async def repositories(self) -> AsyncGenerator[str]:
        from bucketry.transfer.bucket import translated

        after: str | None = None
        while True:
            with translated():
                page = await self._registry.listing.repositories(after=after)
            for name in page.names:
                inside = _inside(self._prefix, name)
                if inside is not None:
                    yield inside
            if not page.more:
                return
            after = page.names[-1]

    def repository(self, name: str) -> BucketRepository:
        from bucketry.transfer.bucket import BucketRepository

        whole = _below(self._prefix, name)
        try:
            parse_repository(whole)
        except OCIError as error:
            raise NameUnusable(f"{self.name}: {error.message}") from error
        return BucketRepository(self._registry, whole, name=f"{self._registry.store.url}/{whole}")

    def mount_from(self, source: Home, name: str) -> str | None:
        """A registry in this process finds blobs in any repository of its own."""
        return None

    def inside(self, other: Home) -> bool:
        if not isinstance(other, BucketHome) or not self._registry.is_same(other._registry):
            return False
        return _is_below(self._prefix, other._prefix)

    async def close(self) -> None:
        from bucketry.transfer.bucket import translated

        with translated():
            try:
                await self._registry.close()
            finally:
                await self._registry.store.close()


def _inside(prefix: str, name: str) -> str | None:
    """A repository's name as it is below the prefix; None for one that is not."""
    if not prefix:
        return name
    return name.removeprefix(f"{prefix}/") if name.startswith(f"{prefix}/") else None


def _is_below(prefix: str, other: str) -> bool:
    return prefix == other or not other or prefix.startswith(f"{other}/")


def _below(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name
