"""``bucketry publish``: images as plain files, which a bucket or a web server gives to ``docker pull``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from cyclopts import Parameter

from bucketry.cli.moving import OnePlatform, OutputOptions, SpeedOptions, run, settings
from bucketry.cli.options import Common, ConfigOptions, store_options
from bucketry.cli.output import write

if TYPE_CHECKING:
    from bucketry.cli.publish_report import Outcome
    from bucketry.store.site import SiteStore
    from bucketry.transfer.contract import Source
    from bucketry.transfer.events import Event, Listener
    from bucketry.transfer.names import Place
    from bucketry.transfer.places import Opening
    from bucketry.transfer.site.gathering import ImageToPublish

EXAMPLES = """
Into a folder, for nginx or Caddy to serve; the files for both are put beside the images:

    bucketry publish registry.example.com/team/app:v1 --to /srv/images

Every tag, into a bucket from which anyone may read; first a look at what that would do and cost:

    bucketry publish reg.example.com/app --all-tags --to s3://images --dry-run
    bucketry publish reg.example.com/app --all-tags --to s3://images

Just this image of an OCI layout, and nothing that was published before:

    bucketry publish oci:build:v2 --name tools/app --to s3://images --prune
"""


def publish(
    *refs: Annotated[
        str,
        Parameter(
            name="REF",
            help="`HOST/NAME[:TAG][@DIGEST]`, `s3://BUCKET/PREFIX/NAME:TAG`, `file:/FOLDER/NAME:TAG`, `oci:DIR[:TAG]` "
            "or `oci-archive:FILE[:TAG]`. Any number of them.",
        ),
    ],
    to: Annotated[
        str,
        Parameter(
            metavar="SITE",
            help="Where the files go: `s3://BUCKET[/PREFIX]` or a folder, empty or published to before.",
        ),
    ],
    name: Annotated[
        str | None,
        Parameter(
            metavar="NAME[:TAG]",
            help="What images are called on the site. Default: as where they are, without the host, and without "
            "`library/` of docker.io.",
        ),
    ] = None,
    all_tags: Annotated[bool, Parameter(negative=(), help="Every tag of the sources, under the same names.")] = False,
    platform: OnePlatform = None,
    no_referrers: Annotated[
        bool, Parameter(negative=(), help="Leave out signatures, SBOMs and whatever else refers to the images.")
    ] = False,
    prune: Annotated[
        bool,
        Parameter(negative=(), help="Publish nothing else: what was published before and is not named now, leaves."),
    ] = False,
    grace: Annotated[
        str | None,
        Parameter(
            metavar="DURATION",
            help="With `--prune`: files that nobody needs are deleted by a run this much later, so that pulls that "
            "run can end. Default: `1h`",
        ),
    ] = None,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Write nothing: show what would be written, in how many requests.")
    ] = False,
    insecure: Annotated[
        bool, Parameter(negative=(), help="Allow plain http to registries that are not on this machine.")
    ] = False,
    speed: SpeedOptions = SpeedOptions(),  # noqa: B008 (frozen)
    output: OutputOptions = OutputOptions(),  # noqa: B008
    config: ConfigOptions = ConfigOptions(),  # noqa: B008
    common: Common = Common(),  # noqa: B008
) -> int:
    """Publish images as plain files: `docker pull` gets them from a bucket, a CDN or a web server, with no registry.

    What is there already is not sent, and what the place can copy by itself does not pass through this machine. A run
    that was stopped is finished by the next, and whoever pulls meanwhile never sees half an image.
    """
    from bucketry.cli.publish_report import report
    from bucketry.transfer.errors import NameUnusable

    if not refs:
        raise NameUnusable("nothing is named that could be published: name at least one image")
    if grace is not None and not prune:
        raise NameUnusable("--grace goes with --prune: nothing is deleted without it")
    places = [_place(ref, all_tags=all_tags) for ref in refs]
    own_name, own_tag = _own(name, places, all_tags=all_tags)
    chosen = settings(speed, platform=platform, referrers=not no_referrers)
    options = store_options(config)
    seconds = _seconds(grace)
    done: list[Outcome] = []

    async def work(listen: Listener) -> None:
        from bucketry.cli.publish_report import Outcome, reach
        from bucketry.store.site_open import open_site
        from bucketry.transfer.bucket import translated
        from bucketry.transfer.places import Opening
        from bucketry.transfer.site.pages import pages_for
        from bucketry.transfer.site.publishing import GRACE
        from bucketry.transfer.site.publishing import publish as transfer

        async with AsyncExitStack() as stack:
            opening = Opening(chosen, options=options, insecure=insecure)
            stack.push_async_callback(opening.close)
            with translated():
                site = open_site(to, options)
                stack.push_async_callback(site.close)
                await site.start()
            images = await _images(places, opening, stack, own_name, own_tag, all_tags=all_tags)
            published = await transfer(
                images,
                site,
                settings=chosen,
                listen=_unheard if dry_run else listen,
                prune=prune,
                grace=GRACE if seconds is None else seconds,
                dry_run=dry_run,
                referrers=not no_referrers,
                pages=pages_for(keeps_headers=site.keeps_headers),
            )
            if site.keeps_headers and not dry_run:
                await _answered(site)
            done.append(Outcome(published, images, await reach(site, published), site.url))

    code = run(work, output.style)
    for outcome in done:
        for line in report(outcome, output.style):
            write(line)
    return code


async def _answered(site: SiteStore) -> None:
    """Of a bucket: that ``/v2/`` has an answer, which some clients ask for first, and get from a web server."""
    from bucketry.store.s3.site import S3Site
    from bucketry.transfer.site import paths

    if isinstance(site, S3Site) and site.flat:
        await site.answer_folder(paths.API, served=paths.changing(paths.JSON))


def _unheard(event: Event) -> None:
    """Of a dry run there is nothing to tell but its end, which the command tells itself."""


def _place(ref: str, *, all_tags: bool) -> Place:
    """Raises `NameUnusable`."""
    from bucketry.transfer.errors import NameUnusable
    from bucketry.transfer.names import parse_place

    if ref.startswith(("docker-daemon:", "docker-archive:")):
        raise NameUnusable(
            f"{ref} has no manifests yet, which are what is published: give it some first, by bucketry push, to a "
            "registry or a bucket, and publish it from there"
        )
    place = parse_place(ref, role="copy from")
    if all_tags and (place.tag is not None or place.digest is not None):
        raise NameUnusable(f"{ref} names one image: --all-tags goes with names that have no tag")
    if all_tags and place.kind in ("oci", "oci-archive"):
        raise NameUnusable(f"{ref} is a layout: --all-tags goes with repositories of registries and buckets")
    return place


def _own(name: str | None, places: Sequence[Place], *, all_tags: bool) -> tuple[str | None, str | None]:
    """Name and tag of ``--name``. Raises `NameUnusable`."""
    from bucketry.oci import parse_repository, parse_tag
    from bucketry.oci.errors import OCIError
    from bucketry.transfer.errors import NameUnusable

    if name is None:
        for place in places:
            if place.kind in ("oci", "oci-archive"):
                raise NameUnusable(f"{place.text} does not say what the image is called on the site: add --name NAME")
        return None, None
    repository, colon, tag = name.partition(":")
    try:
        parse_repository(repository)
        if colon:
            parse_tag(tag)
    except OCIError as error:
        raise NameUnusable(f"--name {name}: {error.message}") from error
    if colon and (all_tags or len(places) > 1):
        raise NameUnusable(f"--name {name}: one tag is for one image; leave it out, and each has its own")
    return repository, tag or None


def _seconds(grace: str | None) -> float | None:
    from bucketry.server.units import parse_duration
    from bucketry.transfer.errors import NameUnusable

    try:
        return None if grace is None else parse_duration(grace)
    except ValueError as error:
        raise NameUnusable(f"--grace {grace} {error}") from None


@runtime_checkable
class _Named(Protocol):
    """A source in a bucket or folder, which knows where the registry ends and the repository's name begins."""

    @property
    def repository(self) -> str: ...


async def _images(
    places: Sequence[Place],
    opening: Opening,
    stack: AsyncExitStack,
    own_name: str | None,
    own_tag: str | None,
    *,
    all_tags: bool,
) -> list[ImageToPublish]:
    from bucketry.oci.reference import DEFAULT_TAG
    from bucketry.transfer.errors import ImageMissing
    from bucketry.transfer.places import open_source
    from bucketry.transfer.site.gathering import ImageToPublish

    images: list[ImageToPublish] = []
    sources: dict[tuple[object, ...], Source] = {}
    for place in places:
        layout = place.kind in ("oci", "oci-archive")
        image = place.image
        # Tags of one repository need not open it anew; a layout is opened by the name of the image in it.
        key: tuple[object, ...] = (place.text,) if layout else (place.store, place.folders, place.split, place.options)
        if image is not None:
            key = (image.registry, image.repository)
        source = sources.get(key)
        if source is None:
            source = sources[key] = await open_source(place, opening)
            stack.push_async_callback(source.close)
        name = own_name or _name(place, source)
        if all_tags:
            tags = await source.tags()
            if not tags:
                raise ImageMissing(f"{source.name} has no tags: there is nothing to publish")
            images += [ImageToPublish(source, name, tag, tag) for tag in tags]
            continue
        tag = own_tag or place.tag
        if tag is None and place.digest is None:
            tag = DEFAULT_TAG
        images.append(ImageToPublish(source, name, tag, None if layout else place.reference))
    return images


def _name(place: Place, source: Source) -> str:
    """What an image is called on the site: as where it is; of Docker Hub as people type it."""
    from bucketry.oci.reference import DEFAULT_REGISTRY

    if place.image is not None:
        repository = place.image.repository
        return repository.removeprefix("library/") if place.image.registry == DEFAULT_REGISTRY else repository
    assert isinstance(source, _Named)
    return source.repository
