"""Manifests that are taken: what they name, which media type they are of, and what they refer to."""

from __future__ import annotations

import pytest
from tests.unit.oci.documents import (
    CHILD,
    CONFIG,
    IMAGE,
    INDEX,
    LAYER,
    Document,
    descriptor,
    digests_of,
    parse,
    refused,
    without,
)

from bucketry.oci import media_types as mt
from bucketry.oci.digest import Digest
from bucketry.oci.manifest import Kind

# ---- what is taken


@pytest.mark.parametrize("media_type", [mt.OCI_MANIFEST, mt.DOCKER_MANIFEST])
def test_an_image_is_its_config_and_its_layers(media_type: str) -> None:
    manifest = parse({**IMAGE, "mediaType": media_type, "annotations": {"k": "v"}}, media_type)

    assert (manifest.media_type, manifest.kind) == (media_type, Kind.IMAGE)
    assert manifest.config is not None
    assert manifest.config.digest == CONFIG["digest"]
    assert [blob.digest for blob in manifest.blobs()] == digests_of([CONFIG, LAYER])
    assert manifest.children() == manifest.manifests == ()
    assert manifest.subject is None
    assert manifest.artifact_type is None
    assert manifest.annotations == {"k": "v"}


@pytest.mark.parametrize("media_type", [mt.OCI_INDEX, mt.DOCKER_LIST])
def test_an_index_is_its_manifests(media_type: str) -> None:
    nested = descriptor("nested", mt.OCI_INDEX)
    platform = {"architecture": "arm64", "os": "linux", "variant": "v8"}
    document = {**INDEX, "mediaType": media_type, "manifests": [{**CHILD, "platform": platform}, nested]}

    manifest = parse(document, media_type)

    assert (manifest.media_type, manifest.kind) == (media_type, Kind.INDEX)
    assert [child.digest for child in manifest.children()] == digests_of([CHILD, nested])
    assert manifest.blobs() == manifest.layers == ()
    assert manifest.config is None


def test_an_artifact_has_an_empty_config_and_a_subject() -> None:
    empty = descriptor("{}", mt.OCI_EMPTY, data="e30=")
    document = {**IMAGE, "artifactType": "application/x.sbom", "config": empty, "layers": [empty], "subject": CHILD}

    manifest = parse(document, mt.OCI_MANIFEST)

    assert manifest.artifact_type == "application/x.sbom"
    assert manifest.subject is not None
    assert manifest.subject.digest == CHILD["digest"]
    assert [blob.digest for blob in manifest.blobs()] == [empty["digest"]]


def test_the_withdrawn_artifact_manifest_has_blobs_and_no_schema_version() -> None:
    document = {"mediaType": mt.OCI_ARTIFACT, "artifactType": "a/b", "blobs": [LAYER], "subject": CHILD}

    manifest = parse(document, mt.OCI_ARTIFACT)

    assert (manifest.kind, manifest.config, manifest.artifact_type) == (Kind.IMAGE, None, "a/b")
    assert [blob.digest for blob in manifest.blobs()] == [LAYER["digest"]]
    assert parse({}, mt.OCI_ARTIFACT).blobs() == ()
    assert "schemaVersion" in refused({**document, "schemaVersion": 3})


def test_an_index_can_have_a_subject_and_an_artifact_type() -> None:
    manifest = parse({**INDEX, "subject": CHILD, "artifactType": "a/b"})

    assert manifest.subject is not None
    assert manifest.artifact_type == "a/b"


@pytest.mark.parametrize("document", [{**IMAGE, "layers": []}, {**INDEX, "manifests": []}])
def test_lists_may_be_empty(document: Document) -> None:
    assert parse(document).layers == parse(document).manifests == ()


@pytest.mark.parametrize("document", [{**IMAGE, "layers": None}, {**INDEX, "manifests": None}])
def test_null_is_an_empty_list_as_go_writes_it(document: Document) -> None:
    assert parse(document).layers == parse(document).manifests == ()


def test_null_is_the_absence_of_what_may_be_absent() -> None:
    document = {**IMAGE, "subject": None, "annotations": None, "artifactType": None, "manifests": None}

    assert parse(document) == parse(IMAGE)


def test_fields_outside_the_spec_change_nothing() -> None:
    more = {"org.example": "x", "x": [{"layers": 1, "Layers": 2}], "blobs": "no artifact manifest", "": None}

    assert parse({**IMAGE, **more}) == parse(IMAGE)
    assert parse({**IMAGE, "layers": [{**LAYER, **more}]}) == parse(IMAGE)


def test_sha512_is_a_digest_too() -> None:
    layer = {**LAYER, "digest": str(Digest.of(b"layer", "sha512"))}

    assert parse({**IMAGE, "layers": [layer]}).layers[0].parsed.algorithm == "sha512"


def test_each_blob_and_each_child_is_named_once() -> None:
    assert [blob.digest for blob in parse({**IMAGE, "layers": [LAYER, LAYER, CONFIG]}).blobs()] == digests_of(
        [CONFIG, LAYER]
    )
    twice = [{**CHILD, "platform": {"os": "linux"}}, {**CHILD, "platform": {"os": "windows"}}]
    assert len(parse({**INDEX, "manifests": twice}).children()) == 1
    assert len(parse({**INDEX, "manifests": twice}).manifests) == 2


@pytest.mark.parametrize("media_type", sorted(mt.NONDISTRIBUTABLE))
def test_layers_that_come_from_elsewhere_need_not_be_held_but_are_kept(media_type: str) -> None:
    foreign = descriptor("foreign", media_type, urls=["https://example/foreign"])

    manifest = parse({**IMAGE, "layers": [foreign, LAYER]})

    assert [blob.digest for blob in manifest.blobs()] == digests_of([CONFIG, LAYER])
    assert [each.digest for each in manifest.references()] == digests_of([CONFIG, foreign, LAYER])


def test_layers_in_an_index_are_blobs_as_build_caches_write_them() -> None:
    cache = descriptor("cache", "application/vnd.buildkit.cacheconfig.v0")
    custom = descriptor("custom", "application/vnd.example.manifest.v1+json")

    manifest = parse({**INDEX, "manifests": [LAYER, CHILD, cache, CONFIG, custom]})

    assert [blob.digest for blob in manifest.blobs()] == digests_of([LAYER, cache, CONFIG])
    assert [child.digest for child in manifest.children()] == digests_of([CHILD, custom])
    assert [each.digest for each in manifest.references()] == digests_of([LAYER, CHILD, cache, CONFIG, custom])


# ---- which media type it is

GENERIC = [None, "", "application/json", "application/octet-stream", "Application/JSON; charset=utf-8"]


@pytest.mark.parametrize("content_type", GENERIC)
@pytest.mark.parametrize("media_type", [mt.OCI_MANIFEST, mt.DOCKER_MANIFEST])
def test_a_generic_content_type_leaves_it_to_the_body(content_type: str | None, media_type: str) -> None:
    assert parse({**IMAGE, "mediaType": media_type}, content_type).media_type == media_type


@pytest.mark.parametrize("content_type", GENERIC)
@pytest.mark.parametrize(("document", "media_type"), [(IMAGE, mt.OCI_MANIFEST), (INDEX, mt.OCI_INDEX)])
def test_without_any_media_type_the_shape_decides(
    content_type: str | None, document: Document, media_type: str
) -> None:
    assert parse(without(document, "mediaType"), content_type).media_type == media_type
    assert parse({**document, "mediaType": ""}, content_type).media_type == media_type


@pytest.mark.parametrize(
    ("document", "media_type"),
    [(IMAGE, mt.OCI_MANIFEST), (IMAGE, mt.DOCKER_MANIFEST), (INDEX, mt.OCI_INDEX), (INDEX, mt.DOCKER_LIST)],
)
def test_a_body_without_media_type_is_what_the_content_type_says(document: Document, media_type: str) -> None:
    assert parse(without(document, "mediaType"), media_type).media_type == media_type


@pytest.mark.parametrize("form", ["{}", "{}; charset=utf-8", " {} ;x", "{};"])
def test_case_and_parameters_of_the_content_type_say_nothing(form: str) -> None:
    assert parse(IMAGE, form.format(mt.OCI_MANIFEST.upper())).media_type == mt.OCI_MANIFEST


@pytest.mark.parametrize(("document", "kind"), [(IMAGE, Kind.IMAGE), (INDEX, Kind.INDEX)])
def test_a_vendors_own_type_is_taken_by_its_shape(document: Document, kind: Kind) -> None:
    media_type = "application/vnd.example.thing.v1+json"

    manifest = parse({**document, "mediaType": media_type}, media_type)

    assert (manifest.media_type, manifest.kind) == (media_type, kind)


@pytest.mark.parametrize(
    "media_type",
    [
        "text/html",
        "application/x-www-form-urlencoded",
        "application/vnd.example.thing",
        "application/example+json",
        "application/vnd.+json",
        "application/vnd.a/b+json",
        "application/vnd.a\r\nx: y+json",
        "application/vnd.a, application/vnd.b+json",
        "application/vnd." + "a" * 5000 + "+json",
        mt.OCI_CONFIG,
        mt.DOCKER_CONFIG,
        mt.OCI_EMPTY,
        mt.OCI_LAYER_GZIP,
    ],
)
def test_other_types_are_no_manifests(media_type: str) -> None:
    assert "is no manifest" in refused(without(IMAGE, "mediaType"), media_type)
    assert "is no manifest" in refused({**IMAGE, "mediaType": media_type})


def test_a_body_of_another_type_than_its_content_type_is_refused() -> None:
    message = refused(IMAGE, mt.DOCKER_MANIFEST)

    assert mt.OCI_MANIFEST in message
    assert mt.DOCKER_MANIFEST in message
    assert "mediaType" in refused(IMAGE, "application/vnd.example+json")


# ---- referrers


def test_a_referrer_has_the_artifact_type_of_its_manifest() -> None:
    digest = Digest.of(b"x")

    entry = parse({**IMAGE, "artifactType": "a/b", "subject": CHILD, "annotations": {"k": "v"}}).referrer(digest, 7)

    assert (entry.media_type, entry.digest, entry.size) == (mt.OCI_MANIFEST, str(digest), 7)
    assert (entry.artifact_type, entry.annotations) == ("a/b", {"k": "v"})
    assert (entry.data, entry.urls, entry.platform) == (None, None, None)


@pytest.mark.parametrize("more", [{}, {"artifactType": ""}, {"artifactType": None}])
def test_a_referring_image_without_artifact_type_has_that_of_its_config(more: Document) -> None:
    entry = parse({**IMAGE, **more}).referrer(Digest.of(b"x"), 7)

    assert (entry.artifact_type, entry.annotations) == (mt.OCI_CONFIG, None)


@pytest.mark.parametrize("more", [{}, {"artifactType": ""}])
def test_a_referring_index_without_artifact_type_has_none(more: Document) -> None:
    assert parse({**INDEX, **more}).referrer(Digest.of(b"x"), 7).artifact_type is None


def test_a_referring_artifact_manifest_without_artifact_type_has_none() -> None:
    assert parse({"blobs": []}, mt.OCI_ARTIFACT).referrer(Digest.of(b"x"), 7).artifact_type is None
