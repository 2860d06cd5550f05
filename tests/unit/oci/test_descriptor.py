from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.oci.descriptor import MAX_SIZE, Descriptor, Platform
from bucketry.oci.digest import Digest

SHA = "sha256:" + "ab" * 32
LEAST = {"mediaType": "application/x", "digest": SHA, "size": 5}

platforms = st.builds(
    Platform,
    architecture=st.sampled_from(["amd64", "arm64"]),
    os=st.sampled_from(["linux", "windows"]),
    os_version=st.none() | st.just("10.0.20348.1"),
    os_features=st.none() | st.just(("win32k",)),
    variant=st.none() | st.just("v8"),
)
descriptors = st.builds(
    Descriptor,
    media_type=st.text(min_size=1, max_size=20),
    digest=st.binary(max_size=4).map(lambda data: str(Digest.of(data))),
    size=st.integers(0, MAX_SIZE),
    urls=st.none() | st.lists(st.text(max_size=10), max_size=2).map(tuple),
    annotations=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    data=st.none() | st.just("e30="),
    platform=st.none() | platforms,
    artifact_type=st.none() | st.text(min_size=1, max_size=20),
)


def decode(document: object) -> Descriptor:
    return msgspec.json.decode(json.dumps(document), type=Descriptor)


@given(descriptors)
def test_json_and_descriptor_are_one_to_one(descriptor: Descriptor) -> None:
    assert msgspec.json.decode(msgspec.json.encode(descriptor), type=Descriptor) == descriptor


def test_the_names_are_those_of_the_spec() -> None:
    document = {
        **LEAST,
        "urls": ["https://example/x"],
        "annotations": {"k": "v"},
        "data": "e30=",
        "platform": {
            "architecture": "arm64",
            "os": "windows",
            "os.version": "10",
            "os.features": ["win32k"],
            "variant": "v8",
        },
        "artifactType": "application/y",
    }

    assert json.loads(msgspec.json.encode(decode(document))) == document


def test_what_is_not_set_is_not_written() -> None:
    assert json.loads(msgspec.json.encode(decode(LEAST))) == LEAST


def test_unknown_fields_are_skipped() -> None:
    platform = {"architecture": "amd64", "os": "linux", "features": ["sse4"], "x": {"y": []}}

    descriptor = decode({**LEAST, "x": [1, {"digest": "no"}], "platform": platform})

    assert descriptor == Descriptor("application/x", SHA, 5, platform=Platform("amd64", "linux"))


def test_the_digest_is_text_and_can_be_had_parsed() -> None:
    assert decode(LEAST).digest == SHA
    assert decode(LEAST).parsed == Digest.parse(SHA)


@pytest.mark.parametrize("size", [0, 1, 2**53 + 1, MAX_SIZE])
def test_sizes_of_an_int64_hold(size: int) -> None:
    assert decode({**LEAST, "size": size}).size == size


@pytest.mark.parametrize("size", ["-1", "9223372036854775808", "1" * 5000, "5.0", "5.5", "1e3", '"5"', "true", "null"])
def test_any_other_size_is_refused(size: str) -> None:
    body = f'{{"mediaType": "application/x", "digest": "{SHA}", "size": {size}}}'

    with pytest.raises(msgspec.ValidationError, match=r"\$\.size"):
        msgspec.json.decode(body, type=Descriptor)


@pytest.mark.parametrize("digest", ["", "sha256:", "../../x", SHA.upper(), SHA + "\n", "blake3:" + "a" * 64, SHA + SHA])
def test_a_digest_that_cannot_be_verified_is_refused(digest: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="digest"):
        decode({**LEAST, "digest": digest})
    with pytest.raises(ValueError, match="digest"):
        Descriptor("application/x", digest, 5)


@pytest.mark.parametrize("missing", LEAST)
def test_each_required_field_is_required(missing: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=missing):
        decode({name: value for name, value in LEAST.items() if name != missing})


@pytest.mark.parametrize(
    "wrong",
    [
        {"mediaType": ""},
        {"mediaType": 1},
        {"digest": 1},
        {"urls": "https://example"},
        {"urls": [1]},
        {"annotations": {"k": 1}},
        {"annotations": {"k": None}},
        {"annotations": []},
        {"data": 1},
        {"platform": {"os": 1}},
        {"platform": "linux/amd64"},
        {"artifactType": []},
    ],
)
def test_a_field_of_the_wrong_type_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode({**LEAST, **wrong})


def test_a_wrong_size_cannot_be_constructed() -> None:
    for size in (-1, MAX_SIZE + 1):
        with pytest.raises(ValueError, match="size"):
            Descriptor("application/x", SHA, size)
