from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.server.auth.issuer import TlsIssuer

from bucketry.server.auth.fetching import HttpsFetch
from bucketry.server.auth.keysets import KeysUnavailable

LIMIT = 1000


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[TlsIssuer]:
    async with TlsIssuer(tmp_path) as issuer:
        yield issuer


async def test_a_document_is_fetched_by_https_with_nothing_of_ours(
    issuer: TlsIssuer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("default login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    issuer.answer, issuer.headers = b"x" * LIMIT, {"set-cookie": "a=b"}
    fetch = HttpsFetch(issuer.ca)

    for _ in range(2):
        assert await fetch(f"{issuer.url}/keys", limit=LIMIT) == b"x" * LIMIT

    sent = {name.lower() for request in issuer.requests for name in request}
    assert sent <= {"host", "accept", "accept-encoding", "user-agent", "connection"}


@pytest.mark.parametrize("size", [LIMIT + 1, 5_000_000])
async def test_a_large_document_is_not_read_to_its_end(issuer: TlsIssuer, size: int) -> None:
    issuer.answer = b"x" * size

    with pytest.raises(KeysUnavailable, match="more than 1000 bytes"):
        await HttpsFetch(issuer.ca)(f"{issuer.url}/keys", limit=LIMIT)


async def test_a_compressed_document_is_not_taken(issuer: TlsIssuer) -> None:
    issuer.answer, issuer.headers = gzip.compress(bytes(1 << 20)), {"content-encoding": "gzip"}

    with pytest.raises(KeysUnavailable, match="compressed"):
        await HttpsFetch(issuer.ca)(f"{issuer.url}/keys", limit=LIMIT)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(issuer: TlsIssuer, status: int) -> None:
    issuer.status, issuer.headers = status, {"location": f"{issuer.url}/elsewhere"}

    with pytest.raises(KeysUnavailable, match=f"answered {status}"):
        await HttpsFetch(issuer.ca)(f"{issuer.url}/keys", limit=LIMIT)

    assert issuer.asked == ["/realm/keys"]


@pytest.mark.parametrize("status", [201, 204, 400, 401, 404, 500, 503])
async def test_only_200_is_an_answer(issuer: TlsIssuer, status: int) -> None:
    issuer.status = status

    with pytest.raises(KeysUnavailable, match=f"answered {status}"):
        await HttpsFetch(issuer.ca)(f"{issuer.url}/keys", limit=LIMIT)


async def test_a_slow_answer_is_given_up(issuer: TlsIssuer) -> None:
    issuer.delay = 5

    with pytest.raises(KeysUnavailable, match=r"did not answer in 0\.2 s"):
        await HttpsFetch(issuer.ca, timeout=0.2)(f"{issuer.url}/keys", limit=LIMIT)


async def test_a_certificate_of_another_ca_is_refused(issuer: TlsIssuer) -> None:
    issuer.answer = b"{}"

    with pytest.raises(KeysUnavailable, match=r"cannot be fetched: .*ertificate"):
        await HttpsFetch()(f"{issuer.url}/keys", limit=LIMIT)

    assert issuer.asked == []


async def test_an_issuer_that_is_not_there_is_told(issuer: TlsIssuer) -> None:
    await issuer.stop()

    with pytest.raises(KeysUnavailable, match="cannot be fetched"):
        await HttpsFetch(issuer.ca)(f"{issuer.url}/keys", limit=LIMIT)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "file:///etc/passwd", "https://u:p@127.0.0.1:1/", "x\n", ""])
async def test_nothing_but_https_is_fetched(url: str) -> None:
    with pytest.raises(KeysUnavailable, match="cannot be fetched"):
        await HttpsFetch()(url, limit=LIMIT)


async def test_a_file_of_certificates_that_is_none_is_told(issuer: TlsIssuer, tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("none")
    for ca in (str(tmp_path / "none.pem"), str(tmp_path / "absent.pem")):
        with pytest.raises(KeysUnavailable, match="cannot be fetched"):
            await HttpsFetch(ca)(f"{issuer.url}/keys", limit=LIMIT)
