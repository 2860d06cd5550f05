"""Whatever the bytes are: a manifest that all readers take alike, or a refusal."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.oci.documents import CHILD, CONFIG, IMAGE, INDEX, LAYER, Document, descriptor, digests_of, parse

from bucketry.oci import media_types as mt
from bucketry.oci.errors import ManifestInvalid
from bucketry.oci.manifest import Manifest, parse_manifest


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
