"""Headers of tar archives, strictly: what two readers could understand differently is refused. No I/O.

Read are POSIX ustar, its pax extensions, and GNU's long names and large numbers: what docker, podman, skopeo, buildkit
and GNU tar write. Nothing is ever extracted to a path, members are only streamed. All the same a member whose name, or
a link whose target, is outside the archive is refused: whoever made it meant harm to somebody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bucketry.oci.text import quoted
from bucketry.transfer.errors import SourceDamaged

BLOCK: Final = 512
MAX_SIZE: Final = 2**50
"""Bytes of the largest member (1 PiB)."""
MAX_EXTENSION: Final = 1024 * 1024
"""Bytes of the largest header extension: long names, and attributes, which are ignored."""
MAX_NAME: Final = 4096
MAX_MEMBERS: Final = 200_000
END_MARK: Final = bytes(BLOCK)

_MAX_LINKS: Final = 40
_NAME_FIELD: Final = 100
_FILES: Final = frozenset({b"0", b"\0", b"7"})
_SPARSE: Final = "GNU.sparse."


class Kind(Enum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Member:
    """``name`` and ``target`` are paths in the archive, without ``.``, ``..`` or a slash at either end.

    ``size``: bytes that follow the header, before padding. ``target``: what a link stands for, hard or symbolic.
    """

    name: str
    kind: Kind
    size: int
    target: str = ""


@dataclass(frozen=True, slots=True)
class Extension:
    """``size`` bytes follow, which are to be given to `Headers.extend` before the next header."""

    flag: bytes
    size: int


def padded(size: int) -> int:
    """``size`` and the padding to whole blocks."""
    return size + -size % BLOCK


class Headers:
    """Makes members of header blocks. ``archive`` is what the archive is called in messages.

    Raises `SourceDamaged` in all its methods.
    """

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._seen: dict[str, Kind] = {}
        self._pax: dict[str, str] = {}
        self._long: dict[bytes, str] = {}

    def take(self, block: bytes) -> Member | Extension | None:
        """What a header says; None for the mark of the archive's end."""
        if block == END_MARK:
            if self._pax or self._long:
                raise self.damaged("ends after the extension of a header")
            return None
        if not _sum_is_right(block):
            raise self.damaged("has a damaged header: its checksum is wrong")
        flag = block[156:157]
        size = self._number(block[124:136])
        if flag in (b"x", b"g", b"L", b"K"):
            if size > MAX_EXTENSION:
                raise self.damaged(f"has the extension of a header of {size:,} bytes")
            return Extension(flag, size)
        member = self._member(block, flag, size)
        self._pax, self._long = {}, {}
        self._note(member)
        return member

    def extend(self, extension: Extension, data: bytes) -> None:
        if extension.flag in (b"L", b"K"):
            self._long[extension.flag] = self._text(data.partition(b"\0")[0])
            return
        records = dict(self._records(data))
        if any(name.startswith(_SPARSE) for name in records):
            raise self.damaged("has a sparse file, which no program that saves images writes")
        if extension.flag == b"x":
            self._pax.update(records)
        elif records.keys() & {"path", "linkpath", "size"}:
            raise self.damaged("gives all its members one name or size")

    def damaged(self, what: str) -> SourceDamaged:
        return SourceDamaged(f"{self._archive} {what}: it is not used")

    def _member(self, block: bytes, flag: bytes, size: int) -> Member:
        name = self._pax.get("path") or self._long.get(b"L") or self._ustar_name(block)
        shown = quoted(name)
        if "size" in self._pax:
            wide = self._pax["size"]
            if not (wide.isascii() and wide.isdigit() and len(wide) <= 20):
                raise self.damaged(f"has {shown} with a size that is no number")
            # A number that did not fit into its field is 0 there. Another would split what readers see.
            if size not in (0, int(wide)):
                raise self.damaged(f"has {shown} with two sizes")
            size = int(wide)
        if size > MAX_SIZE:
            raise self.damaged(f"says that {shown} has {size:,} bytes")
        if flag == b"S":
            raise self.damaged("has a sparse file, which no program that saves images writes")
        path = self._inside(name, "")
        if flag in _FILES and not name.endswith("/"):
            if not path:
                raise self.damaged("has a file without a name")
            return Member(path, Kind.FILE, size)
        if size:
            raise self.damaged(f"has {shown}, which is no file, with {size:,} bytes")
        if flag == b"5" or flag in _FILES:
            return Member(path, Kind.FOLDER, 0)
        if flag in (b"1", b"2"):
            target = self._pax.get("linkpath") or self._long.get(b"K") or self._text(_until_zero(block[157:257]))
            base = path.rpartition("/")[0] if flag == b"2" else ""
            return Member(path, Kind.LINK, 0, self._inside(target, base, link=name))
        raise self.damaged(f"has {shown}, which is no file, folder or link")

    def _note(self, member: Member) -> None:
        if len(self._seen) >= MAX_MEMBERS:
            raise self.damaged(f"has more than {MAX_MEMBERS:,} members")
        before = self._seen.get(member.name)
        if before is not None and not (before is Kind.FOLDER and member.kind is Kind.FOLDER):
            raise self.damaged(f"has {quoted(member.name)} twice")
        self._seen[member.name] = member.kind

    def _inside(self, path: str, base: str, link: str | None = None) -> str:
        """``path`` from the folder ``base`` on, without detours. Only a link may have ``..`` in it."""
        what = f"a member named {quoted(path)}" if link is None else f"a link {quoted(link)} to {quoted(path)}"
        if path.startswith("/"):
            raise self.damaged(f"has {what}, which is outside of it")
        found = [part for part in base.split("/") if part]
        for part in path.split("/"):
            if part in ("", "."):
                continue
            if part != "..":
                found.append(part)
            elif link is None or not found:
                raise self.damaged(f"has {what}, which is outside of it")
            else:
                found.pop()
        return "/".join(found)

    def _ustar_name(self, block: bytes) -> str:
        name = _until_zero(block[:100])
        # GNU's own format has other things where POSIX has the prefix.
        prefix = _until_zero(block[345:500]) if block[257:263] == b"ustar\0" else b""
        return self._text(prefix + b"/" + name if prefix else name)

    def _number(self, field: bytes) -> int:
        """Octal digits; or, with the first bit set, GNU's binary number."""
        if field[0] & 0x80:
            if field[0] != 0x80:
                raise self.damaged("has a member with a negative or absurd size")
            return int.from_bytes(field[1:], "big")
        digits = _until_zero(field).strip(b" ")
        if digits.strip(b"01234567"):
            raise self.damaged("has a member with a size that is no number")
        return int(digits or b"0", 8)

    def _text(self, data: bytes) -> str:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise self.damaged("has a name that is not UTF-8") from None
        if len(text) > MAX_NAME or "\0" in text:
            raise self.damaged("has a name that is too long, or no text")
        return text

    def _records(self, data: bytes) -> Iterator[tuple[str, str]]:
        """Of a pax extension: ``length name=value`` lines, the length being that of the line (POSIX, pax)."""
        start = 0
        while start < len(data):
            digits, space, _ = data[start : start + 12].partition(b" ")
            stop = start + int(digits) if space and digits.isdigit() else 0
            name, equals, value = data[start + len(digits) + 1 : stop - 1].partition(b"=")
            if not equals or data[stop - 1 : stop] != b"\n":
                raise self.damaged("has a damaged extension of a header")
            start = stop
            known = name in (b"path", b"linkpath", b"size")
            yield self._text(name), self._text(value) if known else ""


def resolve(path: str, links: Mapping[str, str]) -> str | None:
    """What ``path`` stands for once links are followed, those of folders too; None where they go in circles."""
    for _ in range(_MAX_LINKS):
        if path in links:
            path = links[path]
            continue
        parts = path.split("/")
        for count in range(len(parts) - 1, 0, -1):
            folder = "/".join(parts[:count])
            if folder in links:
                path = "/".join([part for part in (links[folder], *parts[count:]) if part])
                break
        else:
            return path
    return None


def header(name: str, size: int) -> bytes:
    """The blocks before a file's bytes. ``name`` is ASCII.

    They depend on nothing else: no time, no owner. A size of 8 GiB and more is GNU's binary number, which all readers
    know; a name of more than 100 characters (a blob's with a SHA-512 digest) is a pax extension.
    """
    if len(name) <= _NAME_FIELD:
        return _header(name, size, b"0")
    length = len(name) + len(" path=\n") + 3
    record = b"%d path=%s\n" % (length, name.encode("ascii"))
    extension = _header("pax", len(record), b"x") + record + bytes(-len(record) % BLOCK)
    return extension + _header(name[:_NAME_FIELD], size, b"0")


def _header(name: str, size: int, flag: bytes) -> bytes:
    block = bytearray(BLOCK)
    block[: len(name)] = name.encode("ascii")
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    block[136:148] = b"%011o\0" % 0
    block[148:156] = b" " * 8
    block[156:157] = flag
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _until_zero(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _sum_is_right(block: bytes) -> bool:
    digits = _until_zero(block[148:156]).strip(b" ")
    if not digits or digits.strip(b"01234567"):
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    # Some old programs summed signed bytes.
    return int(digits, 8) == sum(rest) or int(digits, 8) == sum(byte - 256 * (byte > 127) for byte in rest)
