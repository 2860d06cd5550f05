"""``bucketry copy``: images from one repository to another, byte for byte."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bucketry.cli.moving import OnePlatform, OutputOptions, Referrers, SpeedOptions, run, settings, tag_to_write
from bucketry.cli.options import Common, ConfigOptions, store_options

if TYPE_CHECKING:
    from bucketry.transfer.events import Ended, Listener

EXAMPLES = """
From one registry to another, signatures and SBOMs included:

    bucketry copy old.example.com/app:v1 new.example.com/app:v1 --referrers

Every tag of a repository, into a bucket, without a server:

    bucketry copy old.example.com/app s3://my-bucket/registry/app --all-tags
"""


def copy(
    source: Annotated[
        str,
        Parameter(
            help="`HOST/NAME[:TAG][@DIGEST]`, `s3://BUCKET/PREFIX/NAME:TAG`, `file:/FOLDER/NAME:TAG`, `oci:DIR[:TAG]` "
            "or `oci-archive:FILE[:TAG]`."
        ),
    ],
    dest: Annotated[
        str, Parameter(help="`HOST/NAME[:TAG]`, `s3://BUCKET/PREFIX/NAME:TAG` or `file:/FOLDER/NAME:TAG`.")
    ],
    /,
    *,
    all_tags: Annotated[bool, Parameter(negative=(), help="Every tag of the source, under the same names.")] = False,
    platform: OnePlatform = None,
    referrers: Referrers = False,
    insecure: Annotated[
        bool, Parameter(negative=(), help="Allow plain http to registries that are not on this machine.")
    ] = False,
    speed: SpeedOptions = SpeedOptions(),  # noqa: B008 (frozen)
    output: OutputOptions = OutputOptions(),  # noqa: B008
    config: ConfigOptions = ConfigOptions(),  # noqa: B008
    common: Common = Common(),  # noqa: B008
) -> int:
    """Copy images between repositories: digests stay the same, and what is there already is not sent.

    Nothing is kept on this machine: pieces are read and sent in parallel. A copy that was stopped goes on where it was.
    """
    from bucketry.transfer.errors import NameUnusable
    from bucketry.transfer.names import parse_place

    whence, whither = parse_place(source, role="copy from"), parse_place(dest, role="copy to")
    if all_tags and (whence.tag or whence.digest or whither.tag or whither.digest):
        raise NameUnusable("--all-tags goes with names that have no tag: their tags are copied under the same names")
    if whither.digest is not None:
        raise NameUnusable(f"{dest}: a digest is what comes out of a copy; name a tag, or none")
    chosen = settings(speed, platform=platform, referrers=referrers)
    options = store_options(config)

    async def work(listen: Listener) -> Ended:
        from bucketry.transfer.copy import copy as transfer
        from bucketry.transfer.places import Opening, mountable, open_source, open_target

        async with AsyncExitStack() as stack:
            opening = Opening(chosen, options=options, insecure=insecure)
            stack.push_async_callback(opening.close)
            images = await open_source(whence, opening)
            stack.push_async_callback(images.close)
            target = await open_target(whither, opening)
            stack.push_async_callback(target.close)
            return await transfer(
                images,
                target,
                tag=whence.tag if whither.tag is None and whence.tag else tag_to_write(whither),
                settings=chosen,
                listen=listen,
                tags=await images.tags() if all_tags else None,
                mount_from=mountable(whence, whither),
            )

    return run(work, output.style)
