from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.helpers import ALICE, DAY, NOW, OTHER, REPO, CountedIds, FakeClock, memory_store

from bucketry.oci.errors import UploadUnknown
from bucketry.registry.sessions import Held, Session, Sessions, State, parse
from bucketry.store.contract import Corrupt, PreconditionFailed
from bucketry.store.memory import MemoryStore


def sessions(
    clock: FakeClock, store: MemoryStore | None = None, secret: bytes = b"secret", replica: int = 1
) -> Sessions:
    return Sessions(store or memory_store(clock), clock=clock, ids=CountedIds(replica), secret=secret, expiry=DAY)


# ---- ids


def test_an_id_is_good_for_whom_it_was_made_on_any_replica(clock: FakeClock) -> None:
    session_id = sessions(clock).begin(REPO, ALICE, "sha512")

    ticket = sessions(clock, replica=2).check(session_id, REPO, ALICE)

    assert (ticket.session_id, ticket.repository, ticket.algorithm) == (session_id, REPO, "sha512")
    assert ticket.created == int(NOW)
    assert ticket.key == f"uploads/{session_id.partition('.')[0]}"


@pytest.mark.parametrize(
    ("repository", "principal"),
    [(OTHER, ALICE), (REPO, "bob"), (REPO, ""), ("", ALICE), (f"{REPO}\0{ALICE}", ""), (REPO.upper(), ALICE)],
)
def test_an_id_is_good_for_nobody_else(clock: FakeClock, repository: str, principal: str) -> None:
    session_id = sessions(clock).begin(REPO, ALICE, None)

    with pytest.raises(UploadUnknown):
        sessions(clock).check(session_id, repository, principal)


def test_an_id_of_another_registry_is_unknown(clock: FakeClock) -> None:
    session_id = sessions(clock).begin(REPO, ALICE, None)

    with pytest.raises(UploadUnknown):
        sessions(clock, secret=b"another").check(session_id, REPO, ALICE)


@given(st.data())
def test_no_change_of_an_id_is_taken(data: st.DataObject) -> None:
    clock = FakeClock()
    session_id = sessions(clock).begin(REPO, ALICE, data.draw(st.sampled_from([None, "sha256", "sha512"])))
    at = data.draw(st.integers(0, len(session_id) - 1))
    put = data.draw(st.sampled_from("0123456789abcdefz.-/%A\0\n"))
    changed = session_id[:at] + put + session_id[at + data.draw(st.sampled_from([0, 1])) :]

    if changed != session_id:
        with pytest.raises(UploadUnknown):
            sessions(clock).check(changed, REPO, ALICE)


@pytest.mark.parametrize("field", [0, 1, 2])
def test_uuid_time_and_algorithm_are_bound_to_the_id(clock: FakeClock, field: int) -> None:
    """Else a session would never expire, or be hashed by an algorithm that was not declared."""
    fields = sessions(clock).begin(REPO, ALICE, "sha256").split(".")
    clock.advance(100)
    other = sessions(clock, replica=2).begin(REPO, ALICE, "sha512").split(".")
    assert fields[field] != other[field]

    with pytest.raises(UploadUnknown):
        sessions(clock).check(".".join([*fields[:field], other[field], *fields[field + 1 :]]), REPO, ALICE)


@pytest.mark.parametrize("text", ["", ".", "...", "../../bucketry.json", "a.b.c.d", "\u0660" * 8, "x" * 10_000])
def test_what_is_no_id_is_unknown(clock: FakeClock, text: str) -> None:
    with pytest.raises(UploadUnknown, match="Start again"):
        sessions(clock).check(text, REPO, ALICE)


def test_an_id_ends_after_its_time(clock: FakeClock) -> None:
    session_id = sessions(clock).begin(REPO, ALICE, None)
    clock.advance(DAY)
    sessions(clock).check(session_id, REPO, ALICE)
    clock.advance(1)

    with pytest.raises(UploadUnknown, match="expired"):
        sessions(clock).check(session_id, REPO, ALICE)


def test_ids_are_safe_in_a_path_and_differ(clock: FakeClock) -> None:
    made = sessions(clock)
    ids = {made.begin(REPO, ALICE, None) for _ in range(100)}

    assert len(ids) == 100
    assert all(re.fullmatch(r"[a-z0-9.-]{1,128}", each) for each in ids)


async def test_beginning_writes_nothing(clock: FakeClock) -> None:
    store = memory_store(clock)
    sessions(clock, store).begin(REPO, ALICE, None)

    assert (await store.list("")).objects == ()


# ---- what is kept


SESSION = Session(
    nonce="",
    repository=REPO,
    size=130,
    hash=b"\0state",
    data="data/ab/abc",
    upload="u\n\"'",
    part_size=64,
    parts=((1, 64, "e1"), (5, 64, 'e"2')),
    next_number=6,
    reserved=True,
)


@pytest.mark.parametrize("tail", [b"", b"\n", b"xy", bytes(range(256)), b"\n\n{}"])
@pytest.mark.parametrize("state", list(State))
async def test_a_session_comes_back_as_it_was_saved(clock: FakeClock, tail: bytes, state: State) -> None:
    store = memory_store(clock)
    kept = sessions(clock, store)
    ticket = kept.check(kept.begin(REPO, ALICE, None), REPO, ALICE)
    saved = await kept.save(ticket.key, msgspec.structs.replace(SESSION, state=state), tail, None)

    loaded = await sessions(clock, store, replica=2).load(ticket)

    assert isinstance(loaded, Held)
    assert loaded.session == saved.session
    assert loaded.session == msgspec.structs.replace(SESSION, state=state, nonce=saved.session.nonce, tail=len(tail))
    assert bytes(loaded.tail) == bytes(saved.tail) == tail
    assert loaded.etag == saved.etag
    assert [(part.number, part.size, part.etag) for part in loaded.session.stored_parts()] == list(SESSION.parts)


async def test_of_two_changes_of_one_state_the_first_wins(clock: FakeClock) -> None:
    kept = sessions(clock)
    ticket = kept.check(kept.begin(REPO, ALICE, None), REPO, ALICE)
    first = await kept.save(ticket.key, SESSION, b"1", None)

    with pytest.raises(PreconditionFailed):
        await kept.save(ticket.key, SESSION, b"2", None)
    second = await kept.save(ticket.key, SESSION, b"3", first.etag)
    with pytest.raises(PreconditionFailed):
        await kept.save(ticket.key, SESSION, b"4", first.etag)

    loaded = await kept.load(ticket)
    assert loaded is not None
    assert bytes(loaded.tail) == b"3"
    assert second.session.nonce != first.session.nonce, "a write whose answer was lost can be told from another's"


async def test_before_the_first_chunk_there_is_none(clock: FakeClock) -> None:
    kept = sessions(clock)

    assert await kept.load(kept.check(kept.begin(REPO, ALICE, None), REPO, ALICE)) is None


@pytest.mark.parametrize(
    "body", [b"", b"\n", b"{}", b"{}\n", b"junk\nxy", b'{"nonce":"n","repository":"r","tail":3}\nxy']
)
def test_anything_else_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt, match="uploads/x"):
        parse("uploads/x", body, "e")


# ---- part numbers


@pytest.mark.parametrize(("tail", "reserved", "number"), [(0, False, 6), (3, False, 7), (0, True, 6), (3, True, 6)])
def test_the_number_that_a_commit_may_use_unreserved_is_given_to_nobody(tail: int, reserved: bool, number: int) -> None:
    session = msgspec.structs.replace(SESSION, tail=tail, reserved=reserved)

    assert session.unreserved_number() == number
