"""Images to publish, a site in memory, and what is checked of it after every change."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.sites import MemorySite, SiteDisk, problems
from tests.unit.transfer.fakes import (
    Clockwork,
    Heard,
    Image,
    MemorySource,
    descriptor,
    entry,
    index,
    raw,
    settings,
    some_bytes,
)

from bucketry.oci import Descriptor, media_types
from bucketry.transfer.contract import RawManifest, Source
from bucketry.transfer.site.derived import PagesOf, SitePage
from bucketry.transfer.site.gathering import ImageToPublish
from bucketry.transfer.site.publishing import Published, publish
from bucketry.transfer.site.state import State, decode

SHARED = some_bytes(3_000, 50)


def image(seed: int, *, system: str = "linux", architecture: str = "amd64") -> Image:
    """Of three layers, one of them shared by all images."""
    config = json.dumps({"os": system, "architecture": architecture, "seed": seed}).encode()
    return Image(some_bytes(2_000 + seed, seed), some_bytes(100, seed + 1), SHARED, config=config)


def signature(subject: RawManifest, seed: int = 0) -> Image:
    """An artifact that refers to a manifest."""
    return Image(some_bytes(50, 900 + seed), config=b'{"signature":%d}' % seed, subject=subject.descriptor)


def refers(source: MemorySource, signed: Image, subject: RawManifest) -> None:
    """Puts a signature into the source, as something that refers to the subject."""
    source.add(signed.manifest, blobs=signed.blobs)
    found = signed.manifest.parsed.referrer(signed.manifest.digest, len(signed.manifest.body))
    source.referring.setdefault(str(subject.digest), []).append(found)


def cosign_tag(manifest: RawManifest, end: str = "sig") -> str:
    return f"{manifest.digest.algorithm}-{manifest.digest.hex}.{end}"


@dataclass
class Everything:
    """A source with an index of two platforms, a signature of it and one of an image, and what cosign keeps beside."""

    source: MemorySource
    index: RawManifest
    images: tuple[Image, Image]
    signatures: tuple[Image, Image]
    beside: Image

    def blobs(self) -> dict[str, bytes]:
        every = (*self.images, *self.signatures, self.beside)
        return {digest: data for each in every for digest, data in each.blobs.items()}

    def manifests(self) -> list[RawManifest]:
        return [self.index, *(each.manifest for each in (*self.images, *self.signatures, self.beside))]


def everything(seed: int = 0) -> Everything:
    images = (image(seed + 10), image(seed + 20, architecture="arm64"))
    both = index((images[0].manifest, "linux/amd64"), (images[1].manifest, "linux/arm64"))
    source = MemorySource(*images)
    source.add(both, tag="latest")
    signatures = (signature(both, seed), signature(images[0].manifest, seed + 1))
    refers(source, signatures[0], both)
    refers(source, signatures[1], images[0].manifest)
    beside = Image(some_bytes(60, seed + 30))
    source.add(beside.manifest, tag=cosign_tag(both), blobs=beside.blobs)
    return Everything(source, both, images, signatures, beside)


def docker_image(seed: int) -> tuple[RawManifest, dict[str, bytes]]:
    """An image of Docker's own media types."""
    config, layer = b'{"docker":%d}' % seed, some_bytes(500, seed)
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.DOCKER_MANIFEST,
        "config": entry(descriptor(config, media_types.DOCKER_CONFIG)),
        "layers": [entry(descriptor(layer, media_types.DOCKER_LAYER_GZIP))],
    }
    made = raw(document)
    return made, {descriptor(config).digest: config, descriptor(layer).digest: layer}


def pages(state: State) -> Sequence[SitePage]:
    shown = {name: sorted(state.repositories[name].tags) for name in state.names()}
    return [SitePage("index.html", json.dumps(shown).encode(), "text/html; charset=utf-8")]


@dataclass
class World:
    """A site, one or several processes that publish to it, and a clock. Each change is looked at by a reader."""

    tmp_path: Path
    keeps_headers: bool = True
    disk: SiteDisk = field(default_factory=SiteDisk)
    now: float = 1_000_000.0
    found: list[str] = field(default_factory=list)
    watched: bool = True
    _ids: int = 0

    def __post_init__(self) -> None:
        self.disk.changed = self._look
        self.disk.by_content = self.keeps_headers

    def _look(self) -> None:
        if self.watched:
            self.found += self.problems()

    def problems(self) -> list[str]:
        return problems(self.files(), twins=not self.keeps_headers)

    def files(self) -> dict[str, bytes]:
        return {path: file.body for path, file in self.disk.files.items()}

    def site(self) -> MemorySite:
        """Another process's view of the site."""
        return MemorySite(self.disk, keeps_headers=self.keeps_headers)

    def token(self) -> str:
        self._ids += 1
        return f"id-{self._ids:08}"

    async def publish(
        self,
        *images: tuple[Source, str, str | None],
        site: MemorySite | None = None,
        heard: Heard | None = None,
        clockwork: Clockwork | None = None,
        prune: bool = False,
        grace: float = 3600.0,
        dry_run: bool = False,
        referrers: bool = True,
        pages: PagesOf = pages,
        **changes: object,
    ) -> Published:
        """Each image: a source, the name in the site, and the tag, which is also asked of the source."""
        return await publish(
            [ImageToPublish(source, name, tag, tag) for source, name, tag in images],
            site or self.site(),
            settings=settings(self.tmp_path, **changes),
            listen=heard or Heard(),
            prune=prune,
            grace=grace,
            dry_run=dry_run,
            referrers=referrers,
            pages=pages,
            timing=(clockwork or Clockwork()).timing,
            clock=lambda: self.now,
            ids=self.token,
        )

    def state(self) -> State:
        return decode(self.files()["bucketry-site.json"], "state")

    def at(self, path: str) -> bytes:
        return self.disk.files[path].body

    def listed(self, name: str) -> list[str]:
        found: list[str] = json.loads(self.at(f"v2/{name}/tags/list"))["tags"]
        return found

    def catalog(self) -> list[str]:
        found: list[str] = json.loads(self.at("v2/_catalog"))["repositories"]
        return found

    def referrers(self, name: str, subject: RawManifest) -> list[str]:
        document = json.loads(self.at(f"v2/{name}/referrers/{subject.digest}"))
        return [each["digest"] for each in document["manifests"]]

    def content(self) -> Mapping[str, bytes]:
        """All files but the state, whose nonces differ."""
        return {path: body for path, body in self.files().items() if path != "bucketry-site.json"}


def referring(image: Image) -> Descriptor:
    return image.manifest.parsed.referrer(image.manifest.digest, len(image.manifest.body))


class Killed(BaseException):
    """The process is dead: nothing of it lives on."""


def killed_at(site: MemorySite, number: int, *, after: bool) -> None:
    """Kills the process at its call of this number, with its effect or without; all that follow die, too."""
    calls = 0
    dead = False

    async def before(operation: str, path: str) -> None:
        nonlocal calls, dead
        if dead:
            raise Killed
        if not after and calls == number:
            dead = True
            raise Killed
        calls += 1

    async def then(operation: str, path: str) -> None:
        nonlocal dead
        if dead:
            raise Killed
        if after and calls == number + 1:
            dead = True
            raise Killed

    site.before, site.after = before, then


async def dies(run: Awaitable[Published]) -> None:
    """Fails where the process lived on."""
    try:
        await run
    except Killed:
        return
    raise AssertionError("it was not killed")


def at_call(number: int, act: Callable[[], Awaitable[object]]) -> Callable[[str, str], Awaitable[None]]:
    """A hook that acts at the call of this number."""
    made = 0

    async def hook(operation: str, path: str) -> None:
        nonlocal made
        made += 1
        if made == number + 1:
            await act()

    return hook


async def count(world: World, run: Callable[[MemorySite], Awaitable[Published]]) -> int:
    """The calls of a run, on a copy of the site."""
    files = dict(world.disk.files)
    site = world.site()
    await run(site)
    world.disk.files = files
    return len(site.log)
