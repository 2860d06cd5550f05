from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.oci.digest import ALGORITHMS, Digest
from bucketry.oci.errors import DigestInvalid, UnsupportedAlgorithm

LENGTH = {"sha256": 64, "sha512": 128}
GOOD = "sha256:" + "0123456789abcdef" * 4

# The image spec's grammar, and what it registers for the two algorithms, written down once more.
SPEC = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
SPEC_REGISTERED = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")


@st.composite
def digests(draw: st.DrawFn) -> Digest:
    algorithm = draw(st.sampled_from(sorted(ALGORITHMS)))
    return Digest.of(draw(st.binary(max_size=40)), algorithm)


@st.composite
def near_digests(draw: st.DrawFn) -> str:
    """Digests with one character replaced, put in or taken out."""
    text = str(draw(digests()))
    at = draw(st.integers(0, len(text)))
    middle = draw(st.sampled_from(["", "\n", "\0", "/", "A", "g", ":", "0", "٣", "a"]) | st.characters())
    return text[:at] + middle + text[at + draw(st.integers(0, 1)) :]


def test_both_registered_algorithms_are_computed() -> None:
    assert frozenset({"sha256", "sha512"}) == ALGORITHMS


@given(digests())
def test_text_and_digest_are_one_to_one(digest: Digest) -> None:
    assert Digest.parse(str(digest)) == digest
    assert hash(Digest.parse(str(digest))) == hash(digest)


@given(st.binary(max_size=200), st.sampled_from(sorted(ALGORITHMS)))
def test_a_digest_of_bytes_is_what_hashlib_says(data: bytes, algorithm: str) -> None:
    expected = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"

    assert str(Digest.of(data, algorithm)) == expected
    assert str(Digest.of(bytearray(data), algorithm)) == expected
    assert str(Digest.of(memoryview(data), algorithm)) == expected


def test_sha256_is_the_default() -> None:
    assert str(Digest.of(b"{}")) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@given(st.text() | near_digests())
def test_only_registered_forms_are_accepted(text: str) -> None:
    if SPEC_REGISTERED.fullmatch(text):
        assert str(Digest.parse(text)) == text
        return
    with pytest.raises(DigestInvalid) as refused:
        Digest.parse(text)
    # The narrower error is for what the spec calls a digest, with an algorithm that is not computed here.
    unknown = SPEC.fullmatch(text) is not None and text.partition(":")[0] not in LENGTH
    assert isinstance(refused.value, UnsupportedAlgorithm) == unknown


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        ":" + "a" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha512:" + "a" * 64,
        "SHA256:" + "a" * 64,
        "sha256:" + "a" * 64 + "\n",
        "\n" + GOOD,
        " " + GOOD,
        "sha256:" + "a" * 63 + "\0",
        "sha256:" + "a" * 63 + "٣",  # an Arabic digit
        "sha256:" + "a" * 63 + "ａ",  # a full-width a
        "sha256:../../../../etc/passwd",
        "../sha256:" + "a" * 64,
        "sha256:" + "a" * 61 + "/..",
        "sha256:sha256:" + "a" * 64,
        GOOD + ":",
        "sha256:" + "a" * 10_000,
        "sha-:" + "a" * 64,
        "+sha:" + "a" * 64,
        "blake3:",
        "blake3:a b",
    ],
)
def test_malformed_text_is_refused_as_malformed(text: str) -> None:
    with pytest.raises(DigestInvalid) as refused:
        Digest.parse(text)

    assert type(refused.value) is DigestInvalid
    assert refused.value.message.isascii()
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400


@pytest.mark.parametrize(
    "text", ["sha384:" + "a" * 96, "blake3:" + "a" * 64, "multihash+base58:QmRZxt2b", "sha256+b64u:LCa0a2j_xo", "md5:x"]
)
def test_an_algorithm_that_is_not_computed_is_named(text: str) -> None:
    with pytest.raises(UnsupportedAlgorithm, match="use sha256 or sha512") as refused:
        Digest.parse(text)

    assert repr(text.partition(":")[0]) in refused.value.message


@pytest.mark.parametrize(("algorithm", "length"), LENGTH.items())
def test_the_message_says_how_many_digits(algorithm: str, length: int) -> None:
    with pytest.raises(DigestInvalid, match=f"exactly {length} lower-case hex digits"):
        Digest.parse(f"{algorithm}:abc")


def test_a_wrong_digest_cannot_be_constructed() -> None:
    with pytest.raises(DigestInvalid):
        Digest("sha256", "../" * 20)
    with pytest.raises(UnsupportedAlgorithm):
        Digest("md5", "a" * 32)
    with pytest.raises(UnsupportedAlgorithm):
        Digest.of(b"", "md5")


def test_digests_are_ordered_as_their_text() -> None:
    digests = [Digest("sha512", "0" * 128), Digest("sha256", "f" * 64), Digest("sha256", "0" * 64)]

    assert [str(digest) for digest in sorted(digests)] == sorted(str(digest) for digest in digests)
