"""Manifests that are refused: wrong fields, bodies that two readers take differently, hostile sizes."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.oci.documents import CHILD, CONFIG, IMAGE, INDEX, LAYER, Document, parse, refused, without

from bucketry.oci import media_types as mt
from bucketry.oci.errors import ManifestTooLarge
from bucketry.oci.fields import MAX_DEPTH, MAX_VALUES
from bucketry.oci.manifest import MAX_MANIFEST, parse_manifest

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
