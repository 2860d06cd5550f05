"""``bucketry pull``: an image from a registry, or straight from a bucket."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bucketry.cli.moving import Insecure, OutputOptions, Referrers, SpeedOptions, run, settings
from bucketry.cli.options import Common, ConfigOptions, store_options

if TYPE_CHECKING:
    from bucketry.transfer.events import Ended, Listener
    from bucketry.transfer.names import Place

EXAMPLES = """
Into the local Docker Engine:

    bucketry pull registry.example.com/team/app:v1

From a bucket, without a server; into files:

    bucketry pull s3://my-bucket/registry/app:v1
    bucketry pull registry.example.com/app:v1 docker-archive:app.tar
    bucketry pull registry.example.com/app:v1 oci:layout:v1 --all-platforms

With its signatures and SBOMs:

    bucketry pull registry.example.com/app:v1 oci-archive:app.tar:v1 --referrers
"""


def pull(
    ref: Annotated[
        str,
        Parameter(
            name="REF",
            help="`HOST/NAME:TAG`, `HOST/NAME@DIGEST`, `s3://BUCKET/PREFIX/NAME:TAG`, `file:/FOLDER/NAME:TAG`, "
            "`oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]`.",
        ),
    ],
    dest: Annotated[
        str | None,
        Parameter(
            help="`docker-daemon:NAME:TAG`, `docker-archive:FILE[:NAME:TAG]`, `oci:DIR[:TAG]` or "
            "`oci-archive:FILE[:TAG]`. Default: the Docker Engine, under the image's own name."
        ),
    ] = None,
    /,
    *,
    platform: Annotated[
        str | None,
        Parameter(
            metavar="OS/ARCH", help="Which image of an index, such as `linux/arm64`. Default: that of this machine."
        ),
    ] = None,
    all_platforms: Annotated[
        bool, Parameter(negative=(), help="The whole index, into `oci:` or `oci-archive:`.")
    ] = False,
    referrers: Referrers = False,
    insecure: Insecure = False,
    speed: SpeedOptions = SpeedOptions(),  # noqa: B008 (frozen)
    output: OutputOptions = OutputOptions(),  # noqa: B008
    config: ConfigOptions = ConfigOptions(),  # noqa: B008
    common: Common = Common(),  # noqa: B008
) -> int:
    """Pull an image: the pieces of its layers travel in parallel, and are verified on all cores as they land.

    Nothing is made visible before every byte of it was verified. A pull that was stopped goes on where it was.
    """
    from bucketry.transfer.errors import NameUnusable
    from bucketry.transfer.names import parse_place

    if all_platforms and platform is not None:
        raise NameUnusable("--platform and --all-platforms are one or the other")
    whence = parse_place(ref, role="pull from")
    own_name = _own_name(whence)
    if dest is None and own_name is None:
        raise NameUnusable(
            f"{ref} does not say what the image is to be called: name where it goes, such as docker-daemon:NAME:TAG"
        )
    whither = parse_place(f"docker-daemon:{own_name}" if dest is None else dest, role="pull to")
    if all_platforms and whither.kind not in ("oci", "oci-archive"):
        raise NameUnusable(f"{whither.text} holds one image: --all-platforms goes with oci: and oci-archive:")
    if referrers and whither.kind not in ("oci", "oci-archive"):
        from bucketry.transfer.pull import no_place

        raise no_place(whither.text)
    chosen = settings(speed, platform=platform, referrers=referrers)
    options = store_options(config)

    async def work(listen: Listener) -> Ended:
        from bucketry.transfer.places import Opening, open_destination, open_source
        from bucketry.transfer.pull import pull as transfer

        async with AsyncExitStack() as stack:
            opening = Opening(chosen, options=options, insecure=insecure)
            stack.push_async_callback(opening.close)
            source = await open_source(whence, opening)
            stack.push_async_callback(source.close)
            return await transfer(
                source,
                await open_destination(whither, opening),
                reference=whence.reference if whence.kind in ("registry", "bucket", "site") else None,
                # `docker load` calls it what the archive does, and that is what it is called here, unless it is named.
                tag=own_name if whither.kind == "docker-archive" else whither.tag,
                settings=chosen,
                listen=listen,
                whole=all_platforms,
                then=_then(whither),
            )

    return run(work, output.style)


def _own_name(place: Place) -> str | None:
    """What a Docker Engine calls what is pulled: name and tag; None where the place does not say."""
    from bucketry.oci.reference import DEFAULT_TAG

    if place.digest is not None and place.tag is None:
        return None
    tag = place.tag or DEFAULT_TAG
    if place.image is not None:
        return f"{place.image.registry}/{place.image.repository}:{tag}"
    if place.kind == "bucket":
        name = place.candidates()[-1][1] if place.split is not None else place.folders[-1]
        return f"{name}:{tag}"
    return None


def _then(place: Place) -> str | None:
    match place.kind:
        case "docker-daemon":
            return f"docker run {place.name}"
        case "docker-archive":
            return f"docker load -i {place.path}"
    return None
