from __future__ import annotations

from bucketry import oci


def test_the_public_names_are_these_and_all_there() -> None:
    assert oci.__all__ == [
        "ALGORITHMS",
        "MAX_MANIFEST",
        "Descriptor",
        "Digest",
        "ImageReference",
        "Kind",
        "Manifest",
        "Platform",
        "parse_manifest",
        "parse_reference",
        "parse_repository",
        "parse_tag",
    ]
    assert all(hasattr(oci, name) for name in oci.__all__)
