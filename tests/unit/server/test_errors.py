"""The one table of answers to errors."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from starlette.responses import Response

from bucketry.oci import errors as oci
from bucketry.server.errors import STATUS, STORE_STATUS, error_response, oci_error_response, store_error_response
from bucketry.store import contract


def subclasses(module: object, root: type) -> list[type[Any]]:
    return [
        kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, root) and kind is not root
    ]


def first_error(response: Response) -> dict[str, Any]:
    document = json.loads(bytes(response.body))
    assert list(document) == ["errors"]
    (error,) = document["errors"]
    assert isinstance(error, dict)
    return error


def test_every_error_of_the_spec_has_its_status() -> None:
    assert set(STATUS) == set(subclasses(oci, oci.OCIError))


@pytest.mark.parametrize(
    ("code", "statuses"),
    [
        # Distribution spec 1.1: what its sections ask of each endpoint.
        ("BLOB_UNKNOWN", {404}),
        ("BLOB_UPLOAD_INVALID", {400, 416}),
        ("BLOB_UPLOAD_UNKNOWN", {404}),
        ("DIGEST_INVALID", {400}),
        ("MANIFEST_BLOB_UNKNOWN", {404}),
        ("MANIFEST_INVALID", {400, 413}),
        ("MANIFEST_UNKNOWN", {404}),
        ("NAME_INVALID", {400}),
        ("NAME_UNKNOWN", {404}),
        ("SIZE_INVALID", {400}),
        ("UNAUTHORIZED", {401}),
        ("DENIED", {403}),
        ("UNSUPPORTED", {400, 404, 405}),
        ("TOOMANYREQUESTS", {429}),
    ],
)
def test_code_has_the_statuses_of_the_spec(code: str, statuses: set[int]) -> None:
    assert {status for kind, status in STATUS.items() if kind.code == code} == statuses


@pytest.mark.parametrize("kind", subclasses(oci, oci.OCIError), ids=lambda kind: kind.__name__)
def test_error_is_the_specs_json(kind: type[oci.OCIError]) -> None:
    response = oci_error_response(kind("say what to do"))
    assert response.status_code == STATUS[kind]
    assert response.headers["content-type"] == "application/json"
    assert first_error(response) == {"code": kind.code, "message": "say what to do"}


def test_detail_is_there_where_it_was_given() -> None:
    response = oci_error_response(oci.BlobUnknown("no", detail={"digest": "x"}))
    assert first_error(response)["detail"] == {"digest": "x"}
    assert first_error(error_response(400, "X", "m", detail=0))["detail"] == 0


@pytest.mark.parametrize(
    "kind", [contract.StoreError, *subclasses(contract, contract.StoreError)], ids=lambda kind: kind.__name__
)
def test_error_of_a_store_says_nothing_of_the_store_to_the_client(kind: type[contract.StoreError]) -> None:
    response = store_error_response(kind("s3://secret-bucket: key AKIA0000 was refused"))
    assert response.status_code in (403, 500, 503, 507)
    error = first_error(response)
    assert error["code"] in ("UNAVAILABLE", "DENIED", "UNKNOWN")
    assert "secret-bucket" not in bytes(response.body).decode()
    assert len(error["message"]) > 20
    if response.status_code == 503:
        assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (contract.Unavailable("x"), 503, "1"),
        (contract.Unavailable("x", retry_after=0.01), 503, "1"),
        (contract.Unavailable("x", retry_after=2.2), 503, "3"),
        (contract.StoreFull("x", retry_after=60), 507, "60"),
        (contract.AccessDenied("x"), 503, "30"),
        (contract.ReadOnly("x"), 403, None),
        (contract.Corrupt("x"), 500, None),
        (contract.NotFound("x"), 500, None),
    ],
)
def test_error_of_a_store_has_the_status_of_its_nearest_kind(
    error: contract.StoreError, status: int, retry_after: str | None
) -> None:
    response = store_error_response(error)
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after


def test_kinds_of_a_store_that_are_new_are_found_by_their_parent() -> None:
    class Throttled(contract.Unavailable):
        pass

    assert store_error_response(Throttled("x")).status_code == 503
    assert contract.StoreError in STORE_STATUS
