"""``bucketry push``: an image to a registry, or straight to a bucket."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bucketry.cli.moving import (
    Insecure,
    OnePlatform,
    OutputOptions,
    Referrers,
    SpeedOptions,
    run,
    settings,
    tag_to_write,
)
from bucketry.cli.options import Common, ConfigOptions, store_options

if TYPE_CHECKING:
    from bucketry.transfer.events import Ended, Listener

EXAMPLES = """
An image of the local Docker Engine, under the name it has there:

    bucketry push registry.example.com/team/app:v1

Under another name, or straight to a bucket, without a server:

    bucketry push app:v1 localhost:5000/app:v1
    bucketry push app:v1 s3://my-bucket/registry/app:v1

From a file or a layout, with what refers to the image (signatures, SBOMs):

    bucketry push docker-archive:app.tar registry.example.com/app:v1
    bucketry push oci:build:v1 registry.example.com/app:v1 --referrers
"""


def push(
    source: Annotated[
        str,
        Parameter(
            help="`NAME:TAG` or `docker-daemon:NAME:TAG` of the Docker Engine, `docker-archive:FILE[:NAME]`, "
            "`oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, or `s3://BUCKET/PREFIX/NAME:TAG`."
        ),
    ],
    dest: Annotated[
        str | None,
        Parameter(
            help="`HOST/NAME:TAG`, `s3://BUCKET/PREFIX/NAME:TAG` or `file:/FOLDER/NAME:TAG`. "
            "Default: the registry that the image's own name begins with."
        ),
    ] = None,
    /,
    *,
    compression: Annotated[
        str,
        Parameter(
            metavar="FORM",
            help="Of layers that are not compressed yet: `gzip`, `gzip:LEVEL`, `zstd`, `zstd:LEVEL` or `none`. "
            "Default: `gzip`",
        ),
    ] = "gzip",
    platform: OnePlatform = None,
    referrers: Referrers = False,
    insecure: Insecure = False,
    speed: SpeedOptions = SpeedOptions(),  # noqa: B008 (frozen)
    output: OutputOptions = OutputOptions(),  # noqa: B008
    config: ConfigOptions = ConfigOptions(),  # noqa: B008
    common: Common = Common(),  # noqa: B008
) -> int:
    """Push an image: the pieces of its layers travel in parallel, straight to the bucket where it can be.

    A registry without bucketry's extension gets whole layers, several at once. What is there already is not sent;
    a push that was stopped goes on where it was.
    """
    from bucketry.transfer.compress import Compression
    from bucketry.transfer.errors import NameUnusable
    from bucketry.transfer.names import parse_place

    try:
        Compression.parse(compression)
    except ValueError as error:
        raise NameUnusable(f"--compression: {error}") from None
    whence = parse_place(source, role="push from")
    if dest is None and whence.kind != "docker-daemon":
        raise NameUnusable(f"{source} does not say where it is to be pushed to: name that too, such as HOST/NAME:TAG")
    whither = parse_place(whence.name if dest is None else dest, role="push to")
    chosen = settings(speed, platform=platform, compression=compression, referrers=referrers)
    options = store_options(config)

    async def work(listen: Listener) -> Ended:
        from bucketry.transfer.places import Opening, mountable, open_any, open_target
        from bucketry.transfer.push import push as transfer

        async with AsyncExitStack() as stack:
            opening = Opening(chosen, options=options, insecure=insecure)
            stack.push_async_callback(opening.close)
            image = await open_any(whence, opening)
            stack.push_async_callback(image.close)
            target = await open_target(whither, opening)
            stack.push_async_callback(target.close)
            return await transfer(
                image,
                target,
                tag=tag_to_write(whither),
                settings=chosen,
                listen=listen,
                mount_from=mountable(whence, whither),
            )

    return run(work, output.style)
