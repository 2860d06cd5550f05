"""The list of a registry's repositories: read to its end, whatever a registry says, and ended where it has none."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from tests.unit.transfer.remote.scripted import Asked, Scripted
from yarl import URL

from bucketry.transfer.errors import NotPermitted, Refused, TransferError
from bucketry.transfer.remote import Session, paging
from bucketry.transfer.remote.answer import MAX_TEXT
from bucketry.transfer.remote.catalog import repositories

CATALOG = "/v2/_catalog"


async def names(session: Session, server: Scripted) -> list[str]:
    return [name async for name in repositories(session.registry(server.host))]


def page(*found: str, following: str = "") -> web.Response:
    headers = {"Link": f'<{following}>; rel="next"'} if following else {}
    return web.json_response({"repositories": list(found)}, headers=headers)


def place(asked: Asked) -> int:
    return int(URL(asked.target).query.get("at", "0"))


async def test_all_pages_are_read(session: Session, server: Scripted) -> None:
    def answer(asked: Asked) -> web.Response:
        at = place(asked)
        return page(f"a/{at}", f"b/{at}", following=f"{CATALOG}?at={at + 1}" if at < 3 else "")

    server.on("GET", CATALOG, answer)
    assert await names(session, server) == [f"{letter}/{at}" for at in range(4) for letter in "ab"]


@pytest.mark.parametrize("body", [{}, {"repositories": None}, {"repositories": []}])
async def test_a_registry_may_have_none(session: Session, server: Scripted, body: object) -> None:
    server.on("GET", CATALOG, lambda _: web.json_response(body))
    assert await names(session, server) == []


async def test_names_that_cannot_be_are_given_fit_to_be_shown(session: Session, server: Scripted) -> None:
    server.on("GET", CATALOG, lambda _: page("../etc", "Upper/Case", "x" * 5000, "a\r\n\x1b[2Jb", "", "app", "app"))
    found = await names(session, server)
    assert found == ["../etc", "Upper/Case", f"{'x' * MAX_TEXT}...", "a [2Jb", "", "app"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b"7",
        b'{"repositories": 7}',
        b'{"repositories": {"a": 1}}',
        b'{"repositories": [["a"]]}',
        b'{"repositories": [null]}',
        b"[" * 1_000_000,
        json.dumps({"repositories": ["a" * 250] * 70_000}).encode(),
    ],
    ids=lambda body: f"{body[:20]!r} of {len(body)}",
)
async def test_an_answer_outside_the_api_is_refused(session: Session, server: Scripted, body: bytes) -> None:
    server.on("GET", CATALOG, lambda _: web.Response(body=body))
    with pytest.raises(Refused, match="listing its repositories"):
        await names(session, server)


@pytest.mark.parametrize(
    ("following", "words"),
    [
        (CATALOG, "the list has no end"),
        (f"{CATALOG}?n=1000", "the list has no end"),
        ("http://attacker.example/v2/_catalog", "where none is asked for"),
        ("http://[::1", "the next page cannot be"),
    ],
)
async def test_a_next_page_that_is_no_further_one_is_refused(
    session: Session, server: Scripted, following: str, words: str
) -> None:
    server.on("GET", CATALOG, lambda _: page("a", following=following))
    with pytest.raises(Refused, match=words):
        await names(session, server)


async def test_pages_without_end_are_an_end(
    session: Session, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_PAGES", 20)
    server.on("GET", CATALOG, lambda asked: page(following=f"{CATALOG}?at={place(asked) + 1}"))
    with pytest.raises(Refused, match="the list has no end"):
        await names(session, server)
    assert len(server.requests("GET", CATALOG)) == 20


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Refused), (403, NotPermitted), (404, Refused), (405, Refused), (501, Refused)]
)
async def test_a_registry_that_does_not_tell_is_to_be_told_the_names(
    session: Session, server: Scripted, status: int, kind: type[TransferError]
) -> None:
    server.on("GET", CATALOG, lambda _: web.Response(status=status))
    with pytest.raises(kind, match="--repository NAME"):
        await names(session, server)
