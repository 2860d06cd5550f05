from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bucketry.oci import media_types as mt
from bucketry.oci.digest import Digest
from bucketry.oci.errors import ManifestInvalid, ManifestTooLarge
from bucketry.oci.fields import MAX_DEPTH, MAX_VALUES
from bucketry.oci.manifest import MAX_MANIFEST, Kind, Manifest, parse_manifest

Document = dict[str, Any]


def descriptor(content: str, media_type: str = mt.OCI_LAYER_GZIP, **more: object) -> Document:
    data = content.encode()
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data), **more}


CONFIG = descriptor("config", mt.OCI_CONFIG)
LAYER = descriptor("layer")
CHILD = descriptor("child", mt.OCI_MANIFEST)
IMAGE: Document = {"schemaVersion": 2, "mediaType": mt.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: Document = {"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": [CHILD]}


def parse(document: object, content_type: str | None = None) -> Manifest:
    return parse_manifest(json.dumps(document).encode(), content_type)


def without(document: Document, *names: str) -> Document:
    return {name: value for name, value in document.items() if name not in names}


def refused(body: bytes | object, content_type: str | None = None) -> str:
    """The message with which ``body`` is refused."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(data, content_type)
    assert caught.value.code == "MANIFEST_INVALID"
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600
    return caught.value.message


def digests_of(documents: list[Document]) -> list[str]:
    return [document["digest"] for document in documents]


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


# ---- what is refused


def test_an_image_that_is_also_an_index_is_refused() -> None:
    both = {**IMAGE, "manifests": [CHILD]}

    for media_type in (mt.OCI_MANIFEST, mt.OCI_INDEX, mt.DOCKER_MANIFEST, mt.DOCKER_LIST, "application/vnd.x+json"):
        assert "ambiguous" in refused({**both, "mediaType": media_type}, media_type)
    assert "ambiguous" in refused(without(both, "mediaType"))
    assert "ambiguous" in refused(without(both, "config"))
    assert "ambiguous" in refused(without(both, "layers"))
    assert "ambiguous" in refused({**both, "manifests": []})


@pytest.mark.parametrize("media_type", [mt.OCI_INDEX, mt.DOCKER_LIST])
def test_the_body_of_an_image_is_no_index(media_type: str) -> None:
    assert "is an index" in refused(without(IMAGE, "mediaType"), media_type)


@pytest.mark.parametrize("media_type", [mt.OCI_MANIFEST, mt.DOCKER_MANIFEST])
def test_the_body_of_an_index_is_no_image(media_type: str) -> None:
    assert "is an image" in refused(without(INDEX, "mediaType"), media_type)


@pytest.mark.parametrize("field", ["config", "layers", "manifests"])
def test_an_artifact_manifest_has_only_blobs(field: str) -> None:
    value = CONFIG if field == "config" else [LAYER]

    assert field in refused({"mediaType": mt.OCI_ARTIFACT, "blobs": [], field: value})


@pytest.mark.parametrize(
    ("document", "names"),
    [
        (without(IMAGE, "config"), "no config"),
        ({**IMAGE, "config": None}, "no config"),
        (without(IMAGE, "layers"), "no layers"),
        (without(INDEX, "manifests"), "no manifests"),
        ({"schemaVersion": 2}, "no config"),
        ({}, "schemaVersion is missing"),
        (without(IMAGE, "schemaVersion"), "schemaVersion is missing"),
        ({**IMAGE, "schemaVersion": None}, "schemaVersion is missing"),
        ({**IMAGE, "schemaVersion": 3}, "schemaVersion is 3: it must be 2"),
        ({**IMAGE, "schemaVersion": "2"}, "schemaVersion"),
        ({**IMAGE, "schemaVersion": 2.0}, "schemaVersion"),
        ({**IMAGE, "schemaVersion": True}, "schemaVersion"),
        ({**IMAGE, "mediaType": 7}, "mediaType"),
        ({**IMAGE, "artifactType": ["a/b"]}, "artifactType"),
        ({**IMAGE, "annotations": ["k"]}, "annotations"),
        ({**IMAGE, "annotations": {"k": 1}}, "annotations"),
        ({**IMAGE, "annotations": {"k": None}}, "annotations"),
        ({**IMAGE, "annotations": {"k": {"l": "v"}}}, "annotations"),
        ({**IMAGE, "layers": {}}, "layers"),
        ({**IMAGE, "layers": "x"}, "layers"),
        ({**IMAGE, "layers": [None]}, "layers[0]"),
        ({**IMAGE, "layers": [LAYER, []]}, "layers[1]"),
        ({**IMAGE, "config": [CONFIG]}, "config"),
        ({**IMAGE, "subject": "sha256:x"}, "subject"),
        ({**IMAGE, "subject": {}}, "subject"),
        ({**INDEX, "manifests": [CHILD, {**CHILD, "platform": {"os": []}}]}, "manifests[1].platform.os"),
    ],
)
def test_a_missing_or_wrong_field_is_named(document: Document, names: str) -> None:
    assert names in refused(document)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": -1},
        {"size": 1.0},
        {"size": 1.5},
        {"size": 1e300},
        {"size": 2**63},
        {"size": 10**400},
        {"size": "5"},
        {"size": None},
        {"size": True},
        {"digest": ""},
        {"digest": "sha256:abc"},
        {"digest": CONFIG["digest"].upper()},
        {"digest": CONFIG["digest"] + "\n"},
        {"digest": "blake3:" + "a" * 64},
        {"digest": "../../../etc/passwd"},
        {"digest": None},
        {"mediaType": ""},
        {"mediaType": None},
        {"annotations": {"k": 1}},
    ],
)
@pytest.mark.parametrize("place", ["config", "layers", "manifests", "subject", "blobs"])
def test_a_wrong_descriptor_is_refused_wherever_it_stands(place: str, wrong: Document) -> None:
    document: Document = {
        "config": {**IMAGE, "config": {**CONFIG, **wrong}},
        "layers": {**IMAGE, "layers": [LAYER, {**LAYER, **wrong}]},
        "manifests": {**INDEX, "manifests": [{**CHILD, **wrong}]},
        "subject": {**IMAGE, "subject": {**CHILD, **wrong}},
        "blobs": {"mediaType": mt.OCI_ARTIFACT, "blobs": [{**LAYER, **wrong}]},
    }[place]

    assert refused(document).startswith(place)


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        ({"schemaVersion": 1, "name": "x", "tag": "y", "fsLayers": [], "history": [], "signatures": []}, None),
        ({"schemaVersion": 1, "fsLayers": []}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ({"schemaVersion": 1, "fsLayers": []}, "application/vnd.docker.distribution.manifest.v1+json"),
        ({"schemaVersion": 1}, "application/json"),
        ({**IMAGE, "fsLayers": [{"blobSum": LAYER["digest"]}]}, mt.OCI_MANIFEST),
    ],
)
def test_schema_1_is_told_what_to_do(document: Document, content_type: str | None) -> None:
    message = refused(document, content_type)

    assert "Docker schema 1" in message
    assert "push the image again with a current client" in message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" ", "not JSON"),
        (b"{", "not JSON"),
        (b"{}}", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": Infinity}', "not JSON"),
        (b'{"a": "\x01"}', "not JSON"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b'{"\\ud800": 1}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8: a wrong byte at offset 7"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"\xc0\xaf": 1}', "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"2", "not a JSON object"),
        (b'"{}"', "not a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, says: str) -> None:
    assert says in refused(body)
    assert says in refused(body, mt.OCI_MANIFEST)


IMAGE_JSON = json.dumps(IMAGE)


@pytest.mark.parametrize(
    "body",
    [
        IMAGE_JSON[:-1] + ', "layers": []}',
        IMAGE_JSON[:-1] + ', "\\u006cayers": []}',
        IMAGE_JSON[:-1] + ', "x": 1, "x": 1}',
        IMAGE_JSON[:-1] + ', "schemaVersion": 2}',
        IMAGE_JSON[:-1] + ', "Layers": []}',
        IMAGE_JSON[:-1] + ', "layer\u017f": []}',  # the long s, which Go folds to s
        IMAGE_JSON[:-1] + ', "MANIFESTS": []}',
        IMAGE_JSON[:-1] + ', "Subject": null}',
        IMAGE_JSON.replace('"size"', '"size": 7, "size"', 1),
        IMAGE_JSON.replace('"size"', '"Digest": "", "size"', 1),
        IMAGE_JSON.replace('[{"mediaType"', '[{"digest": "", "mediaType"'),
        IMAGE_JSON.replace('[{"mediaType"', '[{"URLS": [], "mediaType"'),
    ],
)
def test_a_field_that_readers_could_take_differently_is_refused(body: str) -> None:
    assert "ambiguous" in refused(body.encode())


# ---- hostile sizes


def test_the_largest_manifest_is_taken_and_one_byte_more_is_not() -> None:
    body = IMAGE_JSON.encode()
    body += b" " * (MAX_MANIFEST - len(body))

    assert parse_manifest(body, None) == parse(IMAGE)
    with pytest.raises(ManifestTooLarge, match=str(MAX_MANIFEST)):
        parse_manifest(body + b" ", None)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [MAX_DEPTH, MAX_DEPTH + 1, 1000, 100_000])
def test_nesting_ends_at_a_limit(opening: str, levels: int) -> None:
    closing = "]" if opening == "[" else "}"
    inner = levels - 1  # the manifest itself is a level
    body = f'{IMAGE_JSON[:-1]}, "x": {opening * inner}"x"{closing * inner}}}'.replace('["x"]', "[]").encode()

    if levels <= MAX_DEPTH:
        assert parse_manifest(body, None) == parse(IMAGE)
    else:
        assert "nests deeper" in refused(body)


def test_unfinished_nesting_is_refused() -> None:
    for unit in (b"[", b'{"a":', b'[{"":'):
        refused(unit * (MAX_MANIFEST // len(unit)))
        refused(b'{"x":' + unit * (MAX_MANIFEST // len(unit) - 5))


@st.composite
def nested_values(draw: st.DrawFn) -> object:
    """A JSON value about as deep as the limit, its strings full of brackets, quotes and backslashes."""
    strings = st.text(st.sampled_from('[]{}"\\,:/a\n'), max_size=8)
    value: object = draw(strings)
    for _ in range(MAX_DEPTH - draw(st.integers(-3, 6))):
        beside = draw(strings)
        value = draw(st.sampled_from([[beside, value], {beside: value}, [[], value, {}], [value]]))
    return value


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(each) for each in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(each) for each in value), default=0)
    return 0


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(nested_values())
def test_brackets_in_strings_are_no_levels(value: object) -> None:
    document = {**IMAGE, "x": value}

    if depth(document) <= MAX_DEPTH:
        assert parse(document) == parse(IMAGE)
    else:
        assert "nests deeper" in refused(document)


def test_a_body_of_very_many_values_is_refused_before_they_are_made() -> None:
    for value in ("0", '""', "{}", "[]"):
        many = ",".join([value] * (MAX_VALUES + 2))
        assert "values" in refused(f'{IMAGE_JSON[:-1]}, "x": [{many}]}}'.encode())
    members = ",".join(['"":0'] * (MAX_VALUES + 2))
    assert "values" in refused(f"{{{members}}}".encode())


def test_commas_in_strings_are_no_values() -> None:
    for text in ("," * (MAX_VALUES + 2), '\\",' * (MAX_VALUES + 2), "\\\\," * (MAX_VALUES + 2)):
        assert parse_manifest(f'{IMAGE_JSON[:-1]}, "x": "{text}"}}'.encode(), None) == parse(IMAGE)


def test_a_manifest_full_of_descriptors_is_taken() -> None:
    least = json.dumps({**LAYER, "mediaType": "a", "size": 0}, separators=(",", ":"))
    count = (MAX_MANIFEST - 1000) // (len(least) + 1)
    body = IMAGE_JSON.replace('"layers": [', '"layers": [' + f"{least}," * count).encode()

    assert len(parse_manifest(body, None).layers) == count + 1


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


# ---- properties


def outcome(body: bytes, content_type: str | None) -> Manifest | None:
    """What `parse_manifest` makes of ``body``; any exception but `ManifestInvalid` fails the test."""
    try:
        return parse_manifest(body, content_type)
    except ManifestInvalid as error:
        message = error.message
    assert message
    assert message.isprintable()
    return None


content_types = st.none() | st.text(max_size=30) | st.sampled_from(sorted(mt.IMAGES | mt.INDEXES | {mt.JSON, "a; b"}))


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]":,\\u0d8 ')).map(str.encode), content_types)
def test_arbitrary_bytes_are_a_manifest_or_refused(body: bytes, content_type: str | None) -> None:
    outcome(body, content_type)


@given(st.data(), content_types)
def test_a_damaged_manifest_is_a_manifest_or_refused(data: st.DataObject, content_type: str | None) -> None:
    body = json.dumps(data.draw(st.sampled_from([IMAGE, INDEX]))).encode()
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(start + 6, len(body))))

    outcome(body[:start] + data.draw(st.binary(max_size=4)) + body[end:], content_type)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([CONFIG, LAYER, CHILD, mt.OCI_MANIFEST, mt.OCI_INDEX, 2, [LAYER], [CHILD]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
field_names = st.sampled_from([*IMAGE, *INDEX, "blobs", "subject", "annotations", "artifactType", "fsLayers", "x"])


@given(st.sampled_from([IMAGE, INDEX, {}]), st.dictionaries(field_names, values, max_size=3), content_types)
def test_any_json_in_any_field_is_a_manifest_or_refused(
    document: Document, more: Document, content_type: str | None
) -> None:
    outcome(json.dumps({**document, **more}).encode(), content_type)


def as_go_reads(pairs: list[tuple[str, Any]]) -> Document:
    """An object as Go's decoder fills a struct: names in any case, the last one wins."""
    return {name.casefold(): value for name, value in pairs}


def swap_case(data: st.DataObject, name: str) -> str:
    return "".join(data.draw(st.sampled_from([letter, letter.upper()])) for letter in name)


@settings(max_examples=200)
@given(st.data())
def test_an_accepted_manifest_names_the_same_content_to_every_reader(data: st.DataObject) -> None:
    def member(name: str, value: str) -> str:
        if data.draw(st.integers(0, 9)) == 0:
            name = swap_case(data, name)
        return f'"{name}":{value}'

    def one_descriptor() -> str:
        digest = data.draw(st.sampled_from([CONFIG, LAYER, CHILD]))["digest"]
        members = [member("digest", f'"{digest}"'), member("size", "5"), member("mediaType", '"a/b"')]
        if data.draw(st.integers(0, 9)) == 0:
            members.append(member("digest", f'"{CHILD["digest"]}"'))
        return "{" + ",".join(members) + "}"

    members = [member("schemaVersion", "2"), member("config", one_descriptor())]
    for _ in range(data.draw(st.integers(1, 2))):
        layers = ",".join(one_descriptor() for _ in range(data.draw(st.integers(0, 2))))
        members.append(member("layers", f"[{layers}]"))
    body = "{" + ",".join(data.draw(st.permutations(members))) + "}"

    manifest = outcome(body.encode(), mt.OCI_MANIFEST)

    if manifest is not None:
        read = json.loads(body, object_pairs_hook=as_go_reads)
        named = [read["config"]["digest"], *(layer["digest"] for layer in read["layers"])]
        assert {blob.digest for blob in manifest.blobs()} == set(named)


json_values = st.text(max_size=8) | st.integers(0, 9) | st.lists(st.text(max_size=3), max_size=2)


@given(
    st.lists(st.builds(descriptor, st.text(max_size=8)), max_size=4),
    st.none() | st.builds(descriptor, st.text(max_size=8)),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    st.dictionaries(st.text(max_size=8).map("x-{}".format), json_values, max_size=3),
)
@example([], None, {"\0": "\u2028"}, {})
def test_everything_that_was_written_is_read_back(
    layers: list[Document], subject: Document | None, annotations: dict[str, str], more: Document
) -> None:
    document = {**IMAGE, "layers": layers, "subject": subject, "annotations": annotations, **more}

    manifest = parse(document, mt.OCI_MANIFEST)

    assert [layer.digest for layer in manifest.layers] == digests_of(layers)
    assert [layer.size for layer in manifest.layers] == [layer["size"] for layer in layers]
    assert (manifest.subject.digest if manifest.subject else None) == (subject["digest"] if subject else None)
    assert manifest.annotations == annotations
    assert {blob.digest for blob in manifest.blobs()} == {CONFIG["digest"], *digests_of(layers)}
