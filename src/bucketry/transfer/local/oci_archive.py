"""``oci-archive:FILE[:tag]``: an OCI image layout in a tar.

The tar is read where it lies: its headers once, then any bytes of any blob. A tar that is compressed as a whole cannot
be read so, and is refused: what is in it is compressed already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bucketry.oci import Digest
from bucketry.transfer.compress import is_compressed
from bucketry.transfer.errors import ImageMissing, NameUnusable
from bucketry.transfer.local.layout import LayoutSource, blob_path
from bucketry.transfer.local.reading import FileRange, OpenFile, TarIndex, index_tar

_UNPACKED_BY = {"gzip": "gunzip", "zstd": "zstd -d", "bzip2": "bunzip2", "xz": "unxz"}


class OciArchive(LayoutSource):
    """A `bucketry.transfer.contract.Source`."""

    def __init__(self, path: Path, tag: str | None = None) -> None:
        super().__init__(_Tar(path), f"oci-archive:{path}" + (f":{tag}" if tag else ""), tag)


class _Tar:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: OpenFile | None = None
        self._index: TarIndex | None = None

    @property
    def name(self) -> str:
        return str(self._path)

    def open(self) -> None:
        if self._file is not None:
            return
        file = OpenFile(self._path, str(self._path))
        try:
            kind = is_compressed(file.read(0, min(6, file.size)))
            if kind is not None:
                raise NameUnusable(
                    f"{self._path} is compressed as a whole, by {kind}: decompress it first, with {_UNPACKED_BY[kind]}"
                )
            self._index = index_tar(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def document(self, path: str, most: int) -> bytes | None:
        return self._opened().document(path, most)

    @contextmanager
    def blob(self, digest: Digest) -> Iterator[FileRange]:
        found = self._opened().find(blob_path(digest))
        if found is None:
            raise ImageMissing(f"{self._path} has no blob {digest}")
        yield found[1]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._index = None

    def _opened(self) -> TarIndex:
        self.open()
        assert self._index is not None
        return self._index
