from __future__ import annotations

import inspect
import re

import pytest

from bucketry.oci import errors
from bucketry.oci.errors import OCIError, RangeInvalid, UploadInvalid

# Distribution spec 1.1, "Error Codes".
SPEC_CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED",
    "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
}  # fmt: skip

LINE = re.compile(r"^ {4}(?P<indent>(?:│   |    )*)[├└]── (?P<name>\w+)(?: +(?P<code>[A-Z_]+)(?= ))?(?: +\S.*)?$")


def drawn_tree() -> dict[str, tuple[str, str]]:
    """Of each class in the docstring's tree: the name of its parent, and its code (its parent's if none is drawn)."""
    tree: dict[str, tuple[str, str]] = {}
    path = ["OCIError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := LINE.match(line):
            depth = len(match["indent"]) // 4
            parent = path[depth]
            path[depth + 1 :] = [match["name"]]
            tree[match["name"]] = (parent, match["code"] or tree[parent][1])
    return tree


def defined_classes() -> dict[str, type[OCIError]]:
    return {
        name: value
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, OCIError) and value is not OCIError
    }


def test_the_drawn_tree_is_the_tree_of_classes() -> None:
    written = {name: (cls.__bases__[0].__name__, cls.code) for name, cls in defined_classes().items()}

    assert drawn_tree() == written


def test_every_code_is_one_of_the_spec_and_every_code_of_the_spec_has_a_class() -> None:
    assert {cls.code for cls in defined_classes().values()} == SPEC_CODES


@pytest.mark.parametrize("cls", defined_classes().values())
def test_every_error_carries_its_message_to_whoever_prints_it(cls: type[OCIError]) -> None:
    error = cls("say what to do")

    assert str(error) == error.message == "say what to do"
    assert error.detail is None


def test_a_lost_chunk_says_where_the_next_one_begins() -> None:
    error = RangeInvalid("the session holds 7 bytes", offset=7)

    assert isinstance(error, UploadInvalid)
    assert error.offset == 7
    assert error.detail == {"offset": 7}
