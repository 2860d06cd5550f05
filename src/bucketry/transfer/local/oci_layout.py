"""``oci:DIR[:tag]``: an OCI image layout in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bucketry.oci import Digest
from bucketry.transfer.errors import ImageMissing, NameUnusable, SourceDamaged
from bucketry.transfer.files import translated
from bucketry.transfer.local.layout import LayoutSource, blob_path
from bucketry.transfer.local.reading import FileRange, OpenFile


class OciLayout(LayoutSource):
    """A `bucketry.transfer.contract.Source`."""

    def __init__(self, folder: Path, tag: str | None = None) -> None:
        super().__init__(_Folder(folder), f"oci:{folder}" + (f":{tag}" if tag else ""), tag)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        return str(self._folder)

    def open(self) -> None:
        if not self._folder.exists():
            raise ImageMissing(f"there is no folder {self._folder}")
        if not self._folder.is_dir():
            raise NameUnusable(f"{self._folder} is no folder: for a tar of an OCI layout write oci-archive: before it")

    def document(self, path: str, most: int) -> bytes | None:
        with translated(f"cannot read {self._folder / path}"):
            try:
                # A fifo or a device has no end to read to.
                if not (self._folder / path).is_file():
                    return None
                with (self._folder / path).open("rb") as file:
                    data = file.read(most + 1)
            except FileNotFoundError:
                return None
        if len(data) > most:
            raise SourceDamaged(f"{self._folder / path} has more than {most:,} bytes: it is not used")
        return data

    @contextmanager
    def blob(self, digest: Digest) -> Iterator[FileRange]:
        path = self._folder / blob_path(digest)
        if not os.path.lexists(path):
            raise ImageMissing(f"{self._folder} has no blob {digest}")
        file = OpenFile(path, str(path))
        try:
            yield FileRange(file, 0, file.size)
        finally:
            file.close()

    def close(self) -> None:
        pass
