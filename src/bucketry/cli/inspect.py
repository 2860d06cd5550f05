"""``bucketry inspect``: what an image is made of, without pulling it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bucketry.cli.moving import Insecure
from bucketry.cli.options import Common, ConfigOptions, store_options
from bucketry.cli.output import write, write_json

if TYPE_CHECKING:
    from bucketry.oci import Descriptor
    from bucketry.transfer.contract import RawManifest, Source

AT_ONCE = 8
"""Layers that are asked about at once."""

_LARGEST_CONFIG = 4 * 1024 * 1024

EXAMPLES = """
What is it made of?

    bucketry inspect registry.example.com/team/app:v1

One image of an index; the manifest's exact bytes; for programs:

    bucketry inspect registry.example.com/team/app:v1 --platform linux/arm64
    bucketry inspect registry.example.com/team/app:v1 --raw
    bucketry inspect s3://my-bucket/registry/app:v1 --json
"""


def inspect(
    ref: Annotated[
        str,
        Parameter(
            name="REF",
            help="`HOST/NAME:TAG`, `HOST/NAME@DIGEST`, `s3://BUCKET/PREFIX/NAME:TAG`, `file:/FOLDER/NAME:TAG`, "
            "`oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]`.",
        ),
    ],
    /,
    *,
    platform: Annotated[
        str | None, Parameter(metavar="OS/ARCH", help="One image of an index, such as `linux/amd64`.")
    ] = None,
    raw: Annotated[bool, Parameter(negative=(), help="Print the manifest's exact bytes.")] = False,
    json: Annotated[bool, Parameter(negative=(), help="Print the answer as JSON.")] = False,
    insecure: Insecure = False,
    config: ConfigOptions = ConfigOptions(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008
) -> int:
    """Show an image's digest, layers and sizes, its platforms, what refers to it, and how it can be verified."""
    import asyncio
    import sys

    from bucketry.transfer.errors import ImageMissing, NameUnusable
    from bucketry.transfer.names import parse_place
    from bucketry.transfer.places import Opening, open_source
    from bucketry.transfer.selection import missing, parse_platform
    from bucketry.transfer.settings import TransferSettings

    if raw and json:
        raise NameUnusable("--raw and --json are one or the other")
    if platform is not None:
        parse_platform(platform)
    place = parse_place(ref, role="inspect")
    options = store_options(config)

    async def work() -> tuple[RawManifest, dict[str, Any]]:
        async with AsyncExitStack() as stack:
            opening = Opening(TransferSettings(platform=platform), options=options, insecure=insecure)
            stack.push_async_callback(opening.close)
            source = await open_source(place, opening)
            stack.push_async_callback(source.close)
            reference = place.reference if place.kind in ("registry", "bucket", "site") else None
            try:
                manifest = await source.manifest(reference)
            except ImageMissing as error:
                raise await missing(source, error) from error
            if platform is not None:
                manifest = await _of_platform(source, manifest, platform)
            return manifest, {} if raw else await _about(source, manifest)

    manifest, about = asyncio.run(work())
    if raw:
        sys.stdout.buffer.write(manifest.body)
    elif json:
        write_json(about)
    else:
        for line in _lines(about):
            write(line)
    return 0


async def _of_platform(source: Source, manifest: RawManifest, platform: str) -> RawManifest:
    from bucketry.transfer.selection import parse_platform, parsed, pick

    known = parsed(manifest)
    if not known.manifests:
        return manifest
    return await source.manifest(pick(source, known, parse_platform(platform), platform).parsed)


async def _about(source: Source, manifest: RawManifest) -> dict[str, Any]:
    from bucketry.transfer.selection import parsed as parsed_of

    parsed = parsed_of(manifest)
    about: dict[str, Any] = {
        "name": source.name,
        "digest": str(manifest.digest),
        "mediaType": manifest.media_type,
        "size": len(manifest.body),
    }
    if parsed.artifact_type:
        about["artifactType"] = parsed.artifact_type
    if parsed.subject is not None:
        about["subject"] = parsed.subject.digest
    if parsed.manifests:
        about["manifests"] = [
            {"digest": each.digest, "platform": _platform(each), "size": each.size} for each in parsed.manifests
        ]
    else:
        blobs = [blob for blob in (parsed.config,) if blob is not None]
        if blobs and (platform := await _platform_of(source, blobs[0])):
            about["platform"] = platform
        about["config"] = _blob(blobs[0]) if blobs else None
        about["layers"] = await _layers(source, parsed.layers)
        about["total"] = sum(blob.size for blob in (*blobs, *parsed.layers))
    referring = await source.referrers(manifest.digest)
    about["referrers"] = [
        {"digest": each.digest, "artifactType": each.artifact_type or each.media_type, "size": each.size}
        for each in referring
    ]
    if parsed.annotations:
        about["annotations"] = dict(parsed.annotations)
    return about


async def _platform_of(source: Source, config: Descriptor) -> str:
    """What the image's config says; empty where it is of something else, or cannot be read: it is not what counts."""
    from json import loads

    from bucketry import hashing
    from bucketry.oci.media_types import DOCKER_CONFIG, OCI_CONFIG
    from bucketry.transfer.errors import TransferError

    if config.media_type not in (OCI_CONFIG, DOCKER_CONFIG) or config.size > _LARGEST_CONFIG:
        return ""
    body = b""
    try:
        async for piece in source.blob(config).read(0, config.size):
            body += piece
    except TransferError:
        return ""
    hasher = hashing.new(config.parsed.algorithm)
    hasher.update(body)
    if hasher.hexdigest() != config.parsed.hex:
        return ""
    try:
        document = loads(body)
    except (ValueError, RecursionError):
        return ""
    found = document if isinstance(document, dict) else {}
    parts = [found.get(name) for name in ("os", "architecture", "variant")]
    return "/".join(part for part in parts if isinstance(part, str) and part.isprintable() and part)


async def _layers(source: Source, layers: Sequence[Descriptor]) -> list[dict[str, Any]]:
    """``segments``: in how many a layer can be verified in parallel; 1 where all at once."""
    from bucketry.transfer.crew import crew

    segments: dict[str, int] = {}

    async def ask(layer: Descriptor) -> None:
        checkpoints = await source.blob(layer).checkpoints()
        segments[layer.digest] = 1 if checkpoints is None else checkpoints.count

    async with crew(AT_ONCE) as tasks:
        for layer in {layer.digest: layer for layer in layers}.values():
            await tasks.begin(ask, layer)
    return [{**_blob(layer), "segments": segments[layer.digest]} for layer in layers]


def _blob(blob: Descriptor) -> dict[str, Any]:
    return {"digest": blob.digest, "mediaType": blob.media_type, "size": blob.size}


def _platform(entry: Descriptor) -> str:
    platform = entry.platform
    if platform is None:
        return ""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def _lines(about: dict[str, Any]) -> Sequence[str]:
    from bucketry.transfer.wording import size_text

    lines = [about["name"], f"digest      {about['digest']}", f"media type  {about['mediaType']}"]
    for name, label in (("artifactType", "artifact"), ("subject", "subject"), ("platform", "platform")):
        if name in about:
            lines.append(f"{label:<10}  {about[name]}")
    if "manifests" in about:
        lines.append(f"images      {len(about['manifests'])}")
        lines += [f"  {each['digest']}  {each['platform'] or '-'}" for each in about["manifests"]]
    else:
        count = len(about["layers"])
        lines.append(f"size        {size_text(about['total'])}, in {count} {'layer' if count == 1 else 'layers'}")
        lines += [
            f"  {each['digest']}  {size_text(each['size'])}"
            + (f", verified in {each['segments']} segments" if each["segments"] > 1 else "")
            for each in about["layers"]
        ]
    if about["referrers"]:
        lines.append(f"referrers   {len(about['referrers'])}")
        lines += [f"  {each['digest']}  {each['artifactType']}" for each in about["referrers"]]
    return lines
