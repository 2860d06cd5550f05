"""Names of connections: what goes into one comes out of it, and all of them fit."""

from __future__ import annotations

import ipaddress
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.server.connection import told_by_front
from bucketry.server.front.peers import (
    CERTIFICATES,
    MAX_FOLDER,
    MAX_PATH,
    MOST_FRONTS,
    certificate_file,
    certificate_id,
    clear,
    read_peer,
    socket_name,
)
from bucketry.server.run import _private_folder

FOLDER = Path("/dev/shm/bucketry-a-c4e_gh")
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
FRONTS = st.integers(0, MOST_FRONTS - 1)
PORTS = st.integers(0, 65_535)
SERIALS = st.integers(0, 2**40)
DER = st.one_of(st.none(), st.binary(max_size=50))


@given(front=FRONTS, address=ADDRESSES, port=PORTS, serial=SERIALS, der=DER)
def test_name_is_read_as_it_was_written_and_fits(
    front: int, address: str, port: int, serial: int, der: bytes | None
) -> None:
    shown = None if der is None else certificate_id(der)
    name = socket_name(FOLDER, front, (address, port), serial, shown)
    assert len(name.encode()) <= MAX_PATH - (MAX_FOLDER - len(str(FOLDER)))
    assert Path(name).parent == FOLDER
    peer = read_peer(name)
    assert (peer.address, peer.port) == (address, port)
    assert peer.certificate == (None if shown is None else certificate_file(FOLDER, front, shown))


@given(
    one=st.tuples(FRONTS, ADDRESSES, PORTS, st.integers(0, 2**32 - 1), DER),
    other=st.tuples(FRONTS, ADDRESSES, PORTS, st.integers(0, 2**32 - 1), DER),
)
def test_two_connections_have_two_names(
    one: tuple[int, str, int, int, bytes | None], other: tuple[int, str, int, int, bytes | None]
) -> None:
    names = {
        socket_name(FOLDER, front, (address, port), serial, None if der is None else certificate_id(der))
        for front, address, port, serial, der in (one, other)
    }
    assert len(names) == (1 if one == other else 2)


def test_longest_name_fits_below_the_folder_of_a_server() -> None:
    name = socket_name(FOLDER, MOST_FRONTS - 1, ("f" * 4 + ":ffff" * 7, 65_535), 2**32 - 1, certificate_id(b"a"))
    assert len(name) == MAX_PATH - (MAX_FOLDER - len(str(FOLDER)))
    with _private_folder() as folder:
        assert len(bytes(folder)) <= MAX_FOLDER
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / CERTIFICATES).stat().st_mode & 0o777 == 0o700


def test_where_the_servers_temporary_files_are_does_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("d" * 150)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    with _private_folder() as folder:
        assert len(bytes(folder)) <= MAX_FOLDER


def test_zone_of_a_link_local_address_is_left_out() -> None:
    assert read_peer(socket_name(FOLDER, 0, ("fe80::1%eth0", 1), 0, None)).address == "fe80::1"


@given(name=st.text(alphabet=string.hexdigits + "-/.\x00é", max_size=60).map(lambda text: f"{FOLDER}/{text}"))
def test_other_names_are_refused_or_read(name: str) -> None:
    try:
        peer = read_peer(name)
    except ValueError:
        return
    ipaddress.ip_address(peer.address)
    assert peer.certificate is None or peer.certificate.parent.name == CERTIFICATES


@pytest.mark.parametrize(
    "client",
    [
        None,
        ("", 0),
        ("unix:", 0),
        ("127.0.0.1", 1234),
        (f"{FOLDER}", 0),
        (f"{FOLDER}/", 0),
        (f"{FOLDER}/workers", 0),
        (f"{FOLDER}/0-7f-1-1-", 0),
        (f"{FOLDER}x/0-7f000001-1-1-", 0),
        (f"{FOLDER}/0-7f000001-1-1", 0),
        (f"{FOLDER}/0-nothex-1-1-", 0),
    ],
)
def test_who_is_no_front_is_not_believed(client: tuple[str, int] | None) -> None:
    scope = {"type": "http", "scheme": "http", "client": client}
    assert not told_by_front(scope, str(FOLDER))
    assert scope["scheme"] == "http"


def test_what_a_front_says_is_put_where_applications_look() -> None:
    scope = {"type": "http", "scheme": "http", "client": (f"{FOLDER}/0-7f000001-1f-1-", 0)}
    assert told_by_front(scope, str(FOLDER))
    assert (scope["client"], scope["scheme"]) == (("127.0.0.1", 31), "https")


def test_what_a_killed_front_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / CERTIFICATES).mkdir()
    gone = [tmp_path / "1-7f000001-1-1-", certificate_file(tmp_path, 1, "aa"), tmp_path / CERTIFICATES / "1-bb.new"]
    stays = [tmp_path / "workers", tmp_path / "11-7f000001-1-1-", certificate_file(tmp_path, 11, "aa")]
    for file in (*gone, *stays):
        file.touch()
    clear(tmp_path, 1)
    assert not any(file.exists() for file in gone)
    assert all(file.exists() for file in stays)
