"""Where a store is a folder: nobody else of the machine reads the keys that sign tokens, whatever the umask.

Whoever writes below ``access/`` makes that folder first, for its owner alone; what is in it needs no mode of its own.
On other stores there is nothing to do. What is being written passes through a folder that others cannot list.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from bucketry.registry import layout
from bucketry.store.contract import LocalFiles, Store


def make_access_folder(store: Store) -> None:
    """Makes it, where there is none. Blocks. Where it cannot be made, what is then written to it says why."""
    folder = _access_folder(store)
    if folder is None:
        return
    with suppress(OSError):
        folder.mkdir(0o700)
        # `sudo bucketry token create` must not lock the server out, which is somebody else.
        owner = folder.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.chown(folder, owner.st_uid, owner.st_gid)


def exposure(store: Store) -> str | None:
    """What to say where all users of this machine can get at what is below ``access/``; None where they cannot.

    Blocks. It looks at the modes of the folders: access by a group is taken for meant, and lists (ACLs) are not read.
    """
    folder = _access_folder(store)
    if folder is None:
        return None
    try:
        folder = folder.resolve(strict=True)
        if not all(stat.S_IMODE(each.stat().st_mode) & stat.S_IXOTH for each in (folder, *folder.parents)):
            return None
    except OSError:
        return None  # It is not there yet, or is not even ours to look at.
    return (
        f"every user of this machine can read {folder}, and so the keys that sign tokens: chmod 700 {folder}, and, if "
        f"somebody may have, delete what is in {folder / 'keys'} (new keys are made, and clients get new tokens)"
    )


def _access_folder(store: Store) -> Path | None:
    if not isinstance(store, LocalFiles):
        return None
    return Path(store.file_path("data/~")).parent.parent / layout.ACCESS_KEYS_PREFIX.partition("/")[0]
