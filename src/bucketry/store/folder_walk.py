"""The keys of a folder in order, page by page, without a look into any file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from bucketry.store.checks import is_foreign, is_key
from bucketry.store.foreign_files import is_behind_link
from bucketry.store.object_file import NO_FILE
from bucketry.store.paths import is_piece, key_to_path, names_to_segment

_NO_FOLDER = (*NO_FILE, errno.ENAMETOOLONG)


def walk(root: str, prefix: str, after: str | None) -> Iterator[tuple[str, str]]:
    """Keys below the prefix that follow ``after``, with their files' paths, in byte order of the keys.

    A folder's keys all begin with its name and a slash, so entries in the order of their names, folders
    with a slash behind, are keys in their order.
    """
    if is_foreign(prefix) and is_behind_link(root, prefix[:-1]):
        return
    path = f"{root}/{key_to_path(prefix[:-1])}" if prefix else root
    stack = [_entries(path, prefix, after)]
    while stack:
        for key, path in stack[-1]:
            if key.endswith("/"):
                stack.append(_entries(path, key, after))
                break
            yield key, path
        else:
            stack.pop()


def _entries(path: str, prefix: str, after: str | None) -> Iterator[tuple[str, str]]:
    """Sorted: keys, and the prefixes of folders, which may have something beyond the key ``after``."""
    found: list[tuple[str, str]] = []
    foreign = is_foreign(prefix)
    pending: list[tuple[str, tuple[str, ...]]] = [(path, ())]
    while pending:
        folder, pieces = pending.pop()
        try:
            entries = os.scandir(folder)
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise
            continue
        with entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if foreign:
                    segment = entry.name
                else:
                    if is_folder and is_piece(entry.name):
                        pending.append((entry.path, (*pieces, entry.name)))
                        continue
                    known = names_to_segment((*pieces, entry.name))
                    if known is None:
                        continue
                    segment = known
                key = f"{prefix}{segment}/" if is_folder else prefix + segment
                if after is not None and key <= after and not (is_folder and after.startswith(key)):
                    continue
                if foreign and not is_key(key.removesuffix("/")):
                    continue
                if is_folder or entry.is_file(follow_symlinks=False):
                    found.append((key, entry.path))
    found.sort()
    return iter(found)
