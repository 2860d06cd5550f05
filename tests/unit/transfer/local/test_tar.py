"""Headers of tars: read as others read them, or refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.transfer.local.tars import END, entry, members, pax

from bucketry.transfer.errors import SourceDamaged
from bucketry.transfer.local.reading import OpenFile, TarIndex, index_tar
from bucketry.transfer.local.tar import MAX_EXTENSION, header, resolve

LONG = "/".join(["folder-with-a-long-name"] * 12)


def index(folder: Path, data: bytes) -> TarIndex:
    path = folder / "some.tar"
    path.write_bytes(data)
    return index_tar(OpenFile(path, "some.tar"))


def contents(found: TarIndex) -> dict[str, bytes]:
    return {name: place.file.read(place.offset, place.size) for name, place in found.files.items()}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_form_is_read(form: int, tmp_path: Path) -> None:
    packed = io.BytesIO()
    names = ["a", "./b/c.json", "x" * 99, "some/folder/" + "y" * 90]
    if form != tarfile.USTAR_FORMAT:
        names += [f"{LONG}/{'z' * 120}", "größe"]
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = number * 300, 1.5 if form == tarfile.PAX_FORMAT else 1
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
        folder = tarfile.TarInfo("b")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)

    found = contents(index(tmp_path, packed.getvalue()))

    assert found == {name.removeprefix("./"): bytes([n]) * (n * 300) for n, name in enumerate(names)}


def test_large_sizes_are_read_in_both_forms(tmp_path: Path) -> None:
    """The file is sparse: no such bytes are on the disk."""
    size = 9 * 2**30
    for head in (
        header("large", size),
        pax(size=str(size)) + entry("large", size=b"0" * 11 + b"\0"),
        entry("large", size=b"\x80" + size.to_bytes(11, "big")),
    ):
        path = tmp_path / "large.tar"
        with path.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + size + 1024)

        found = index_tar(OpenFile(path, "large.tar"))

        assert found.files["large"].size == size
        path.unlink()


def test_links_are_followed_inside_the_archive(tmp_path: Path) -> None:
    found = index(
        tmp_path,
        entry("real/layer.tar", b"layer")
        + entry("b/layer.tar", flag=b"2", link="../real/layer.tar")
        + entry("c/layer.tar", flag=b"1", link="b/layer.tar")
        + entry("d", flag=b"2", link="./real")
        + END,
    )

    for path in ("real/layer.tar", "b/layer.tar", "c/layer.tar", "d/layer.tar"):
        place = found.find(path)
        assert place is not None
        assert place[0] == "real/layer.tar"
    assert found.find("e/layer.tar") is None


def test_links_in_circles_are_refused(tmp_path: Path) -> None:
    found = index(tmp_path, entry("a", flag=b"2", link="b") + entry("b", flag=b"2", link="a") + END)

    with pytest.raises(SourceDamaged, match="circles"):
        found.find("a")
    assert resolve("x", {"x": "x/y"}) is None


HOSTILE = {
    "a name outside": (entry("../../etc/cron.d/x", b"data"), "outside of it"),
    "a name outside by a detour": (entry("a/../../x", b"data"), "outside of it"),
    "a detour that stays inside": (entry("a/../x", b"data"), "outside of it"),
    "an absolute name": (entry("/etc/passwd", b"data"), "outside of it"),
    "a pax name outside": (pax(path="../x") + entry("x", b"data"), "outside of it"),
    "a GNU name outside": (entry("././@LongLink", b"../x\0", flag=b"L") + entry("x", b""), "outside of it"),
    "a link outside": (entry("a/link", flag=b"2", link="../../etc"), "outside of it"),
    "an absolute link": (entry("link", flag=b"2", link="/etc/shadow"), "outside of it"),
    "a hard link outside": (entry("a/b/link", flag=b"1", link="../x"), "outside of it"),
    "a pax link outside": (pax(linkpath="../../x") + entry("a/link", flag=b"2", link="b"), "outside of it"),
    "a folder outside": (entry("../x/", flag=b"5"), "outside of it"),
    "an absurd size": (entry("x", size=b"\x80" + (2**62).to_bytes(11, "big")), "4,611,686,018,427,387,904 bytes"),
    "a negative size": (entry("x", size=b"\xff" * 12), "negative or absurd"),
    "a size larger than the file": (entry("x", size=b"%011o\0" % 10**9), "1,000,000,000 bytes"),
    "a size that is no number": (entry("x", size=b"12345678zzz\0"), "no number"),
    "a pax size that is no number": (pax(size="-5") + entry("x"), "no number"),
    "two sizes": (pax(size="1024") + entry("x", b"five!") + entry("y", bytes(1024)), "two sizes"),
    "one size for all": (pax(b"g", size="0") + entry("x", b"five!"), "all its members one name or size"),
    "one name for all": (pax(b"g", path="x") + entry("y", b"five!"), "all its members one name or size"),
    "a sparse file": (entry("x", b"data", flag=b"S"), "sparse"),
    "a pax sparse file": (pax(GNU_sparse_realsize="99") + entry("x", b"data"), "sparse"),
    "a device": (entry("dev/sda", flag=b"4"), "no file, folder or link"),
    "a link with bytes": (entry("x", b"data", flag=b"2", link="y"), "is no file, with 4 bytes"),
    "a file twice": (entry("x", b"one") + entry("x", b"two"), "twice"),
    "a file twice by another spelling": (entry("x", b"one") + entry("./x", b"two"), "twice"),
    "a file and a link": (entry("x", b"one") + entry("x", flag=b"2", link="y"), "twice"),
    "a file and a folder": (entry("x", b"one") + entry("x", flag=b"5"), "twice"),
    "a file without a name": (entry("./", b""), None),
    "a huge extension": (entry("x", size=b"%011o\0" % (MAX_EXTENSION + 1), flag=b"x"), "extension of a header"),
    "a damaged extension": (entry("x", b"99 path=x\n", flag=b"x") + entry("x"), "damaged extension"),
    "an extension that goes back": (entry("x", b"0 path=x\n", flag=b"x") + entry("x"), "damaged extension"),
    "an extension of nothing": (pax(path="x"), "ends after the extension"),
    "a name that is no text": (entry("x", b"\xff\xfe\0", flag=b"L") + entry("x"), "UTF-8"),
    "a name without end": (entry("x", b"y" * 5000, flag=b"L") + entry("x"), "too long"),
    "a wrong checksum": (bytes([1]) + entry("x")[1:], "checksum"),
    "a checksum that is no number": (entry("x")[:148] + b"+123" + entry("x")[152:], "checksum"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_hostile_is_refused(what: str, tmp_path: Path) -> None:
    data, says = HOSTILE[what]

    if says is None:  # A folder named "" is the archive itself.
        assert index(tmp_path, data + END).files == {}
        return
    with pytest.raises(SourceDamaged, match=says):
        index(tmp_path, data + END)


@pytest.mark.parametrize("stop", [0, 100, 512, 700, 1024, 1535])
def test_what_is_cut_short_is_refused(stop: int, tmp_path: Path) -> None:
    whole = entry("x", b"x" * 600)
    assert len(whole) == 1536

    with pytest.raises(SourceDamaged, match="cut short"):
        index(tmp_path, whole[:stop])
    assert contents(index(tmp_path, whole + END[:512])) == {"x": b"x" * 600}


def test_many_small_records_take_no_time(tmp_path: Path) -> None:
    records = b"6 a=b\n" * (MAX_EXTENSION // 6)

    assert "x" in index(tmp_path, entry("p", records, flag=b"x") + entry("x") + END).files


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=2000), at=st.integers(0, 1023), flips=st.integers(1, 255))
def test_no_other_error_comes_of_any_bytes(
    data: bytes, at: int, flips: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tar")
    flipped = bytearray(pax(path="some/name", size="5") + entry("x", b"12345", size=b"0" * 12) + END)
    flipped[at] ^= flips
    for candidate in (data, bytes(flipped)):
        try:
            index(folder, candidate)
        except SourceDamaged:
            continue


@pytest.mark.parametrize("size", [0, 1, 8 * 2**30 - 1, 8 * 2**30, 2**45])
def test_a_header_that_was_written_is_read_back_by_python_too(size: int) -> None:
    block = header("blobs/sha256/" + "a" * 64, size)

    info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    assert (info.name, info.size, info.mtime, info.uid) == ("blobs/sha256/" + "a" * 64, size, 0, 0)
    long = "blobs/sha512/" + "b" * 128
    assert members(header(long, 3) + b"abc" + bytes(509) + END) == {long: b"abc"}
    assert members(header("x", 3) + b"abc" + bytes(509) + END) == {"x": b"abc"}
