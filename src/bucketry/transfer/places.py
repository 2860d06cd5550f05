"""From the name of an image to what it is read from or pushed to. Modules are loaded when a name needs them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from bucketry.store.open import StoreOptions, open_store
from bucketry.transfer.crew import in_thread
from bucketry.transfer.errors import ImageMissing, NameUnusable, Refused
from bucketry.transfer.journal import Journal
from bucketry.transfer.names import Place
from bucketry.transfer.settings import MIB, TransferSettings

if TYPE_CHECKING:
    from bucketry.registry import Registry
    from bucketry.store.contract import Store
    from bucketry.transfer.bucket import BucketRepository
    from bucketry.transfer.contract import Destination, SavedImage, Source, Target
    from bucketry.transfer.judging import Judging
    from bucketry.transfer.local.docker_engine import DockerEngine
    from bucketry.transfer.remote import RemoteRepository, Session

_FORMAT: Final = "bucketry.json"
_SITE: Final = "bucketry-site.json"


class Opening:
    """What names are opened with: settings, credentials, the connections to registries. `close` when all is done.

    ``options``: of buckets. ``insecure``: plain http to registries. ``environ`` and ``home``: whose settings of Docker,
    and whose credentials, are used. ``clock``: POSIX seconds.
    """

    def __init__(
        self,
        settings: TransferSettings,
        *,
        options: StoreOptions | None = None,
        insecure: bool = False,
        environ: Mapping[str, str] | None = None,
        home: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.options = options or StoreOptions()
        self.environ = os.environ if environ is None else environ
        self.home = Path.home() if home is None else home
        self.clock = clock
        self._insecure = insecure
        self._session: Session | None = None

    def session(self) -> Session:
        """The connections to registries, the same each time."""
        if self._session is None:
            from bucketry.transfer.remote import CredentialStore, Session

            self._session = Session(CredentialStore(self.environ, self.home), insecure=self._insecure, clock=self.clock)
        return self._session

    def engine(self) -> DockerEngine:
        """A client of the local Docker Engine; whoever gets it closes it."""
        from bucketry.transfer.local.docker_engine import DockerEngine, find_engine

        return DockerEngine(find_engine(self.environ, self.home))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def open_source(place: Place, opening: Opening) -> Source:
    """A repository or layout to read from. Raises `TransferError`."""
    match place.kind:
        case "registry":
            return _remote(place, opening)
        case "site":
            return _site(place, opening)
        case "bucket":
            return await _read_bucket(place, opening)
        case "oci":
            from bucketry.transfer.local.oci_layout import OciLayout

            return OciLayout(Path(place.path), place.name or None)
        case "oci-archive":
            from bucketry.transfer.local.oci_archive import OciArchive

            return OciArchive(Path(place.path), place.name or None)
    raise NameUnusable(f"{place.text} has no manifests to read: bucketry push sends it")


async def open_saved(place: Place, opening: Opening) -> SavedImage:
    """An image of the Docker Engine, or of what ``docker save`` wrote. Raises `TransferError`."""
    match place.kind:
        case "docker-daemon":
            from bucketry.transfer.local.docker_daemon import DockerImage

            return DockerImage(opening.engine(), place.name)
        case "docker-archive":
            from bucketry.transfer.local.docker_archive import DockerArchive

            return DockerArchive(Path(place.path), place.name or None)
    raise NameUnusable(f"{place.text} is no image that docker saved")


async def open_any(place: Place, opening: Opening) -> Source | SavedImage:
    """What a push may begin from."""
    if place.kind in ("docker-daemon", "docker-archive"):
        return await open_saved(place, opening)
    return await open_source(place, opening)


async def open_target(place: Place, opening: Opening) -> Target:
    """A repository to push to. Raises `TransferError`; `Refused` for a bucket that ignores conditions."""
    match place.kind:
        case "registry":
            return _remote(place, opening)
        case "bucket":
            return await open_bucket(place, opening, write=True)
    raise NameUnusable(f"{place.text} is no repository: it can be pulled to")


async def open_destination(place: Place, opening: Opening) -> Destination:
    """What a pull fills. Raises `TransferError`."""
    match place.kind:
        case "docker-daemon":
            from bucketry.transfer.local.docker_daemon import DockerFilling

            return DockerFilling(opening.engine(), place.name, opening.settings.cache / "images")
        case "docker-archive":
            from bucketry.transfer.local.docker_archive_filling import DockerArchiveFilling

            return DockerArchiveFilling(Path(place.path), place.name or None)
        case "oci":
            from bucketry.transfer.local.oci_layout_filling import OciLayoutFilling

            return OciLayoutFilling(Path(place.path), place.name or None)
        case "oci-archive":
            from bucketry.transfer.local.oci_archive_filling import OciArchiveFilling

            return OciArchiveFilling(Path(place.path), place.name or None)
    raise NameUnusable(f"{place.text} is a repository: it can be pushed to, not pulled to")


def mountable(source: Place, target: Place) -> str | None:
    """The repository beside the target that has the source's blobs; None where it is not known to be there."""
    one, other = source.image, target.image
    if (
        one is None
        or other is None
        or source.kind != "registry"
        or one.registry != other.registry
        or one.repository == other.repository
    ):
        return None
    return one.repository


def _remote(place: Place, opening: Opening) -> RemoteRepository:
    from bucketry.transfer.remote import RemoteRepository

    assert place.image is not None
    return RemoteRepository(opening.session(), place.image)


def _site(place: Place, opening: Opening) -> RemoteRepository:
    from bucketry.transfer.remote import RemoteRepository

    assert place.image is not None
    session = opening.session()
    endpoint = session.site(place.image.registry, plain=place.plain, root=place.path)
    return RemoteRepository(session, place.image, endpoint=endpoint, name=place.text)


async def _read_bucket(place: Place, opening: Opening) -> Source:
    """What is in a bucket or folder: a registry's repository, or a published site's."""
    found = await _located(place, opening)
    if not found.is_site:
        try:
            return await _bucket(found, place, opening, write=False)
        except ImageMissing:
            if place.store.startswith("file:"):
                raise
            async with _started(found.url, opening) as store:
                if not await _is_there(store, _SITE):
                    raise
    from bucketry.transfer.site.reading import open_to_read

    name = f"{found.url}//{found.repository}{_ending(place)}"
    return await open_to_read(found.url, opening.options, found.repository, reference=place.reference, name=name)


async def open_bucket(place: Place, opening: Opening, *, write: bool) -> BucketRepository:
    """A repository of the registry in a bucket or folder; ``write`` makes a registry where there is none.

    A bucket that is written to is looked at first, as ``bucketry serve`` does, once a day; one without a registry
    while the first parts are on their way.
    """
    found = await _located(place, opening)
    if found.is_site:
        raise _published(found.url)
    return await _bucket(found, place, opening, write=write)


async def _bucket(found: _Found, place: Place, opening: Opening, *, write: bool) -> BucketRepository:
    from bucketry.transfer.bucket import BucketRepository

    registry, judging = await _open(found.url, opening, write=write, meanwhile=True)
    name = f"{registry.store.url}/{found.repository}{_ending(place)}"
    return BucketRepository(
        registry, found.repository, name=name, reference=place.reference, close_store=True, judging=judging
    )


def _ending(place: Place) -> str:
    return f"@{place.digest}" if place.digest else f":{place.tag}" if place.tag else ""


def _published(url: str) -> Refused:
    return Refused(f"{url} is a published site, and no registry to push to: bucketry publish --to {url} writes it")


async def open_registry(url: str, opening: Opening, *, write: bool) -> Registry:
    """The registry in a store, which is its owner's to close with it; with ``write`` one is made where none is."""
    if url.startswith("file:") and (await in_thread(_folder, [(url, "")])).is_site:
        raise _published(url)  # Before a store leaves its own folders there.
    registry, _ = await _open(url, opening, write=write, meanwhile=False)
    return registry


async def _open(url: str, opening: Opening, *, write: bool, meanwhile: bool) -> tuple[Registry, Judging | None]:
    """``meanwhile``: a store without a registry may still be looked at when this returns."""
    from bucketry.registry import Registry, RegistrySettings
    from bucketry.transfer.bucket import translated
    from bucketry.transfer.judging import Judging

    settings = opening.settings
    with translated():
        store = open_store(url, opening.options)
        await store.start()
        judging = None
        try:
            there = await _holds_registry(store)
            if not write:
                if not there:
                    raise ImageMissing(f"{store.url} holds no registry: there is no image to read")
            elif not there and await _is_there(store, _SITE):
                raise _published(store.url)
            elif not there and meanwhile:
                judging = Judging(partial(_judge, store, opening))
            elif not _was_seen(store, opening):
                await _judge(store, opening)
            registry = await Registry.open(
                store,
                settings=RegistrySettings(
                    part_size=max(8 * MIB, settings.part_size or 0),
                    memory=settings.memory,
                    parallel_parts=settings.parallel or 32,
                    verify_readers=settings.parallel or 16,
                ),
            )
        except BaseException:
            if judging is not None:
                await judging.close()
            await store.close()
            raise
    return registry, judging


def _seen(opening: Opening) -> Journal:
    return Journal(opening.settings.cache / "probes", clock=opening.clock)


def _was_seen(store: Store, opening: Opening) -> bool:
    return _seen(opening).find(_identity(store, opening)) is not None


def _identity(store: Store, opening: Opening) -> str:
    """The same bucket may be reached by services that behave in different ways."""
    return f"{store.url} {opening.options.endpoint} {opening.environ.get('AWS_ENDPOINT_URL_S3')}"


async def _judge(store: Store, opening: Opening) -> None:
    """Raises `Refused` for a store on which two pushes could overwrite each other unseen."""
    from bucketry.transfer.bucket import translated
    from bucketry.transfer.judging import judge

    with translated():
        await judge(store, clock=opening.clock)
    _seen(opening).begin(_identity(store, opening), note="ok")


async def _holds_registry(store: Store) -> bool:
    from bucketry.store.contract import BucketMissing, NotFound

    try:
        await store.head(_FORMAT)
    except BucketMissing:
        raise
    except NotFound:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Found:
    """A store and a repository in it. ``is_site``: it was seen to be a published site, and no registry."""

    url: str
    repository: str
    is_site: bool = False


async def _located(place: Place, opening: Opening) -> _Found:
    """What is meant; see `bucketry.transfer.names`."""
    candidates = place.candidates()
    if place.store.startswith("file:"):
        return await in_thread(_folder, candidates)
    if len(candidates) > 1:
        # From the outermost, as one client of the bucket does for them all.
        outermost, whole = candidates[-1]
        async with _started(outermost, opening) as store:
            for url, repository in candidates:
                for file in (_FORMAT, _SITE):
                    if await _is_there(store, f"{whole.removesuffix(repository)}{file}"):
                        return _Found(url, repository, file == _SITE)
    return _Found(*candidates[0])


def _folder(candidates: Sequence[tuple[str, str]]) -> _Found:
    folders = [(os.path.abspath(store.removeprefix("file:")), name) for store, name in candidates]
    for path, name in folders:
        for file in (_FORMAT, _SITE):
            if Path(path, file).is_file():
                return _Found(f"file:{quote(path)}", name, file == _SITE)
    path, name = folders[0]
    return _Found(f"file:{quote(path)}", name)


async def _is_there(store: Store, key: str) -> bool:
    from bucketry.store.checks import is_key
    from bucketry.store.contract import AccessDenied, Corrupt, NotFound

    if not is_key(key):
        return False
    try:
        await store.head(key)
    except Corrupt:
        return True  # A plain file in a folder, which a site has.
    except (NotFound, AccessDenied):
        return False  # Whoever has rights below a prefix alone cannot look above it.
    return True


@contextlib.asynccontextmanager
async def _started(url: str, opening: Opening) -> AsyncIterator[Store]:
    from bucketry.transfer.bucket import translated

    with translated():
        store = open_store(url, opening.options)
        await store.start()
        try:
            yield store
        finally:
            await store.close()
