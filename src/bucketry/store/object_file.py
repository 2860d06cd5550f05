"""How an object is kept in a file.

The file of a bulk or foreign object holds its bytes and nothing else; its etag comes from what the file system says of
it, which is enough for what is written once. Any other file begins with one line, the magic and a JSON header;
the body follows.
"""

from __future__ import annotations

import errno
import math
import os
import stat

import msgspec

from bucketry.store.contract import OCTET_STREAM, ObjectInfo

HEADER_READ = 8 * 1024
"""Bytes: more than the longest header, which holds 2 KiB of metadata, escaped."""

NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""How a file system says that there is no object: `OSError.errno`."""

MAGIC = b"bucketry-object-1 "


class _Header(msgspec.Struct, omit_defaults=True):
    """``size`` is the body's, so that a list need not read it and a torn file is seen."""

    etag: str
    size: int
    modified: float
    type: str = OCTET_STREAM
    metadata: dict[str, str] = {}


_decode_header = msgspec.json.Decoder(_Header).decode
_encode_header = msgspec.json.Encoder().encode


def first_line(info: ObjectInfo) -> bytes:
    header = _Header(info.etag, info.size, info.modified, info.content_type, dict(info.metadata))
    return MAGIC + _encode_header(header) + b"\n"


def write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def set_modified(fd: int, seconds: float) -> None:
    # In two steps: a product would lose the last digits, and `bulk_info` would give another time than the clock's.
    whole = math.floor(seconds)
    moment = whole * 1_000_000_000 + round((seconds - whole) * 1_000_000_000)
    os.utime(fd, ns=(moment, moment))


def bulk_info(key: str, status: os.stat_result) -> ObjectInfo:
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "not a file", key)
    etag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return ObjectInfo(key, status.st_size, etag, status.st_mtime_ns / 1_000_000_000)


def parse(key: str, data: bytes) -> tuple[ObjectInfo, int] | None:
    end = data.find(b"\n")
    if end < 0 or not data.startswith(MAGIC):
        return None
    try:
        header = _decode_header(data[len(MAGIC) : end])
    except msgspec.MsgspecError:
        return None
    info = ObjectInfo(key, header.size, header.etag, header.modified, header.type, header.metadata)
    return info, end + 1
