"""The files of rules and users: read from where they are, again when they change, and never by half."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bucketry.access import AccessError
from bucketry.server.auth import rulebook
from bucketry.server.auth.rulebook import Book, Rulebook, first_book, read_book

RULE = '[[rule]]\nwho = ["{who}"]\nrepositories = ["**"]\nallow = ["pull"]\n'
ALICE, BOB = RULE.format(who="user:alice"), RULE.format(who="user:bob")
HASH = "$2b$10$" + "a" * 53
ISSUER = '[[issuer]]\nname = "ci"\nurl = "https://issuer.example"\naudience = "me"\nkeys = "keys/jwks.json"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "htpasswd").write_text(f"alice:{HASH}\n")
    path = tmp_path / "access.toml"
    path.write_text(f'users = "htpasswd"\n{ALICE}')
    return path


def book_of(file: Path) -> Rulebook:
    return Rulebook(file, read_book(file), reload=1)


def who(found: Rulebook) -> str:
    return found.book.access.rules[0].who[0]


async def test_paths_are_from_where_the_file_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    token = '[token]\nrealm = "https://t/x"\nservice = "me"\nissuer = "t"\njwks = "keys/token.json"\n'
    ca = ISSUER.replace("ci", "cluster").replace("issuer.", "cluster.").replace("keys =", "ca =")
    file.write_text(f'users = "htpasswd"\n{ALICE}{ISSUER}{ca}{token}')
    access = read_book(file).access
    assert access.users == str(file.parent / "htpasswd")
    assert [one.keys or one.ca for one in access.issuers] == [str(file.parent / "keys" / "jwks.json")] * 2
    assert access.token is not None
    assert access.token.jwks == str(file.parent / "keys" / "token.json")
    file.write_text(f'users = "{file.parent}/htpasswd"\n{ALICE}{token.replace("keys/token.json", "https://t/keys")}')
    access = read_book(file).access
    assert access.users == str(file.parent / "htpasswd")
    assert access.token is not None
    assert access.token.jwks == "https://t/keys"


@pytest.mark.parametrize("which", ["access.toml", "htpasswd"])
async def test_file_that_changes_while_it_is_read_is_read_again(
    file: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-23208: whoever was removed at that moment would stay, as nothing changes afterwards."""
    found = book_of(file)
    file.write_text(f'users = "htpasswd"\n# again\n{ALICE}')
    read = rulebook._text

    def changing(path: Path) -> str:
        text = read(path)
        if path.name == which:
            monkeypatch.setattr(rulebook, "_text", read)
            (file.parent / "htpasswd").write_text(f"bob:{HASH}\n")
            file.write_text(f'users = "htpasswd"\n{BOB}')
        return text

    monkeypatch.setattr(rulebook, "_text", changing)
    await found.look()
    await found.look()
    assert who(found) == "user:bob"
    assert "bob" in found.book.users
    assert "alice" not in found.book.users


async def test_change_that_keeps_time_and_size_is_seen(file: Path) -> None:
    found = book_of(file)
    before = os.stat(file)
    file.write_text(f'users = "htpasswd"\n{ALICE.replace("alice", "clara")}')
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (os.stat(file).st_size, os.stat(file).st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    await found.look()
    assert who(found) == "user:clara"


async def test_file_that_replaces_it_and_a_link_that_leads_elsewhere_are_seen(file: Path) -> None:
    (file.parent / "one").mkdir()
    (file.parent / "two").mkdir()
    for folder, text in (("one", ALICE), ("two", BOB)):
        (file.parent / folder / "access.toml").write_text(text)
    file.unlink()
    (file.parent / "now").symlink_to("one")
    file.symlink_to("now/access.toml")
    found = book_of(file)
    (file.parent / "next").symlink_to("two")
    (file.parent / "next").rename(file.parent / "now")
    await found.look()
    assert who(found) == "user:bob"


def broken() -> Iterator[bytes]:
    yield b"[[rule]]\nwho = 'nobody'\n"
    yield b"\xff\xfe"
    yield b"a = " + b"[" * 100_000
    yield b"a" * (rulebook.MAX_FILE + 1)
    yield b'users = "no such file"\n' + ALICE.encode()
    yield b'users = "."\n' + ALICE.encode()
    yield b'users = "broken"\n' + ALICE.encode()
    yield b'users = "/dev/null/x"\n' + ALICE.encode()
    yield b"x.y.z = 1\n" * 3
    yield b"[[rule]]\nrepositories = 1979-05-27\n"
    yield b'[[rule]]\nwho = ["user:a"]\nrepositories = ["A"]\nallow = ["pull"]\n'
    yield ISSUER.replace("https", "http").encode()


@pytest.mark.parametrize("content", list(broken()), ids=lambda content: repr(content[:24]))
async def test_file_that_cannot_be_used_changes_nothing_and_is_told_of_once(file: Path, content: bytes) -> None:
    found = book_of(file)
    (file.parent / "broken").write_text("alice:pw\n")
    heard: list[Book] = []
    found.changed = heard.append
    file.write_bytes(content)
    with capture_logs() as logs:
        for _ in range(3):
            await found.look()
    assert who(found) == "user:alice"
    assert heard == []
    assert [line["event"] for line in logs] == ["the new rules are refused, and the old ones stay"]
    assert "access.toml" in logs[0]["file"]
    file.write_text(BOB)
    await found.look()
    assert who(found) == "user:bob"


async def test_file_that_is_gone_changes_nothing(file: Path) -> None:
    found = book_of(file)
    file.unlink()
    with capture_logs() as logs:
        await found.look()
        await found.look()
    assert who(found) == "user:alice"
    assert len(logs) == 1


async def test_users_that_come_after_the_rules_that_name_them(file: Path) -> None:
    """Two files are two writes: what was refused between them is taken when it can be."""
    found = book_of(file)
    file.write_text(f'users = "people"\n{BOB}')
    await found.look()
    assert who(found) == "user:alice"
    (file.parent / "people").write_text(f"bob:{HASH}\n")
    await found.look()
    assert who(found) == "user:bob"
    assert "bob" in found.book.users


async def test_whoever_cannot_use_a_new_book_keeps_the_old_one(file: Path) -> None:
    found = book_of(file)

    def refuse(book: Book) -> None:
        raise ValueError("no")

    found.changed = refuse
    file.write_text(BOB)
    await found.look()
    assert who(found) == "user:alice"


async def test_worker_that_starts_where_the_file_is_broken_goes_on_with_what_another_took_last(file: Path) -> None:
    kept = file.parent / "kept"
    kept.mkdir(mode=0o700)
    first = Rulebook(file, first_book(file, kept), reload=1, kept=kept)
    file.write_text(f'users = "htpasswd"\n{BOB}')
    (file.parent / "htpasswd").write_text(f"bob:{HASH}\n")
    await first.look()
    file.write_text("broken")
    (file.parent / "htpasswd").unlink()
    with capture_logs() as logs:
        later = Rulebook(file, first_book(file, kept), reload=1, kept=kept)
    assert who(later) == "user:bob"
    assert later.book.users.names == {"bob"}
    assert [line["event"] for line in logs] == ["the new rules are refused, and the old ones stay"]
    assert HASH not in repr(later.book)
    file.write_text(ALICE)
    await later.look()
    assert who(later) == "user:alice"
    assert [path.name for path in kept.iterdir()] == ["book.json"]
    assert (kept / "book.json").stat().st_mode & 0o077 == 0


async def test_worker_that_starts_where_the_file_is_as_it_was_does_not_read_it_again(file: Path) -> None:
    kept = file.parent / "kept"
    kept.mkdir()
    first_book(file, kept)
    file.rename(file.parent / "away")
    later = Rulebook(file, first_book(file, kept), reload=1, kept=kept)
    (file.parent / "away").rename(file)
    with capture_logs() as logs:
        await later.look()
        await later.look()
    assert [line["event"] for line in logs if line["log_level"] == "info"] == ["rules read again"]


@pytest.mark.parametrize("kept", [True, False])
def test_first_worker_refuses_a_broken_file(file: Path, kept: bool) -> None:
    file.write_text("broken")
    with pytest.raises(AccessError):
        first_book(file, file.parent if kept else None)


def test_no_hash_or_password_is_in_an_error(file: Path) -> None:
    (file.parent / "htpasswd").write_text("alice:canary-of-a-password\nbob\ncanary-alone\n")
    with pytest.raises(AccessError) as caught:
        read_book(file)
    assert "line 1" in str(caught.value)
    assert "canary" not in str(caught.value)
