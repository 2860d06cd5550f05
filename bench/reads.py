"""Scenarios that read: manifests and redirects a second, and a layer pulled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.client import REPOSITORY, pull, push
from bench.ground import Ground, Rounds, shown
from bench.layers import KIB, MIB, Layer
from bench.measure import CONNECTIONS, requests_a_second
from bench.protocol import OCI_MANIFEST, Client, Way
from bench.results import NO_TARGET, Row, Target
from bench.services import Bucket, Registry
from bucketry.oci import Digest
from bucketry.registry import layout

_STRAIGHT = "the S3 server itself"
_REDIRECTED = 512 * KIB
"""Bytes of a blob that both redirect to the bucket."""
_SAME = " (all ask for the same, so requests that wait at the same time may share one to the store)"
_FROM_MEMORY = (
    "the peer with its cache of blob descriptors, as its image and its Debian package configure it: it answers from "
    "memory what another replica may have deleted, where bucketry asks the store each time"
)
_NO_CACHE = "the peer with its defaults: both ask the store each time"
_LIMIT = (
    "what bounds the line of many: the S3 server asked by the same client for the very objects that bucketry reads, "
    "one for each of its answers, with no registry between them. Behind bucketry it has the machine not to itself"
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for many times. ``paths`` differ, ``one`` and ``many`` say of what there is one or are many."""

    what: str
    one: str
    many: str
    paths: Sequence[str]
    accept: str
    status: int
    limit: tuple[Bucket, Sequence[str]] | None = None
    """A bucket, and the key of it that bucketry reads for each of the paths."""


def manifests(ground: Ground) -> Sequence[Row]:
    """GET by tag, on S3 and on a folder: of one tag, and of many in turn."""
    tags = [f"v{number}" for number in range(ground.scale.many)]
    rows: list[Row] = []
    for where, target in (("S3", Target(ratio=3)), ("a folder", NO_TARGET)):
        asked = _Asked(
            what=f"GET manifest by tag, {where}",
            one="one tag",
            many=f"{len(tags)} tags in turn",
            paths=[f"/v2/{REPOSITORY}/manifests/{tag}" for tag in tags],
            accept=OCI_MANIFEST,
            status=200,
        )
        with _three(ground, where) as (registries, _):
            # The two peers are on the same storage.
            for registry in registries[1:]:
                put_manifests(registry.port, tags)
            rows += _rates(ground, registries, asked, target)
    return rows


def redirects(ground: Ground) -> Sequence[Row]:
    """GET of a blob on S3, the redirect not followed: of one blob, and of many in turn."""
    layers = [Layer(f"redirect {number}", _REDIRECTED) for number in range(ground.scale.many)]
    asked = _Asked(
        what="GET blob, S3, a redirect",
        one="one blob",
        many=f"{len(layers)} blobs in turn",
        paths=[f"/v2/{REPOSITORY}/blobs/{layer.digest()}" for layer in layers],
        accept="*/*",
        status=307,
    )
    links = [layout.link(REPOSITORY, Digest.parse(layer.digest())) for layer in layers]
    with _three(ground, "S3") as (registries, ours):
        for registry in registries[1:]:
            with Client(registry.port) as client:
                for layer in layers:
                    client.push(REPOSITORY, layer, Way.PUT)
        if isinstance(ours, Bucket):
            asked = replace(asked, limit=(ours, links))
        return _rates(ground, registries, asked, Target(ratio=10))


@contextmanager
def _three(ground: Ground, where: str) -> Iterator[tuple[Sequence[Registry], Bucket | Path]]:
    """The peer without and with its cache, on one storage, and bucketry, and the storage of that."""
    with ExitStack() as stack:
        theirs: Bucket | Path
        ours: Bucket | Path
        if where == "S3":
            theirs, ours = stack.enter_context(ground.seaweed())
        else:
            theirs, ours = (stack.enter_context(ground.services.scratch("store")) for _ in range(2))
        peers = [stack.enter_context(ground.services.peer(theirs, cache=cache)) for cache in (False, True)]
        yield (*peers, stack.enter_context(ground.services.bucketry(ours))), ours


def _rates(ground: Ground, registries: Sequence[Registry], asked: _Asked, target: Target) -> list[Row]:
    rows = []
    for paths, title, same in ((asked.paths[:1], asked.one, _SAME), (asked.paths, asked.many, "")):
        asks = [(registry.name, registry.port, paths, asked.status) for registry in registries]
        if asked.limit is not None and paths is asked.paths:
            bucket, keys = asked.limit
            asks.append((_STRAIGHT, bucket.port, bucket.signed(keys), 200))
        rates: Mapping[str, list[float]] = {name: [] for name, *_ in asks}
        with ground.services.scratch("wrk") as folder:
            for _ in range(ground.scale.rounds):
                for name, port, targets, status in asks:
                    rate = requests_a_second(
                        port,
                        targets,
                        accept=asked.accept,
                        status=status,
                        seconds=ground.scale.seconds,
                        folder=folder,
                    )
                    rates[name].append(rate)
                    ground.say(f"{asked.what}, {title}, from {name}: {rate:,.0f}/s")
        plain, cached, ours = (rates[registry.name] for registry in registries)
        for peer, against, note, judged in (
            (plain, "peer without cache", _NO_CACHE + same, target),
            (cached, "peer with cache", _FROM_MEMORY + same, NO_TARGET),
        ):
            name = f"{asked.what}, {title}, {CONNECTIONS} connections; {against}"
            rows.append(Row(name, "requests/s", peer, ours, judged, more_is_better=True, note=note))
        if _STRAIGHT in rates:
            name = f"{asked.what}, {title}, {CONNECTIONS} connections; limit"
            limit = rates[_STRAIGHT]
            share = {"share_of_the_limit": median(ours) / median(limit)}
            rows.append(Row(name, "requests/s", [], limit, more_is_better=True, note=_LIMIT, details=share))
    return rows


def pull_layer(ground: Ground) -> Sequence[Row]:
    """Redirects followed (S3), bytes verified."""
    layer = Layer("pull", ground.scale.layer)
    rows = []
    for where in ("S3", "a folder"):
        with ExitStack() as stack:
            pair = stack.enter_context(ground.on_s3())[0] if where == "S3" else stack.enter_context(ground.on_folders())
            rates = Rounds()
            for registry in pair:
                push(registry.port, layer, Way.PUT)
            for _ in range(ground.scale.rounds):
                for registry in pair:
                    seconds = pull(registry.port, layer)
                    rates.add(registry, layer.size / MIB / seconds)
                    ground.say(f"{shown(layer.size)} from {registry.name} on {where}: {seconds:.2f} s")
            title = f"pull of {shown(layer.size)} from {where}, verified"
            rows.append(rates.row(title, "MiB/s", more_is_better=True))
    return rows


def put_manifests(port: int, tags: Sequence[str], authority: Path | None = None) -> None:
    """A manifest a tag, each with an annotation of its own, on one config and one layer."""
    blobs = [Layer("manifest config", KIB), Layer("manifest layer", 10 * KIB)]
    kinds = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip")
    with Client(port, authority) as client:
        for blob in blobs:
            client.push(REPOSITORY, blob, Way.PUT)
        config, layer = (
            {"mediaType": kind, "digest": blob.digest(), "size": blob.size}
            for kind, blob in zip(kinds, blobs, strict=True)
        )
        for tag in tags:
            manifest = {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": config,
                "layers": [layer],
                "annotations": {"org.opencontainers.image.version": tag},
            }
            client.put_manifest(REPOSITORY, tag, json.dumps(manifest).encode())
