"""Files that another program keeps below `FOREIGN_PREFIX` of a folder: plain bytes, under names as they are.

That program makes no symbolic links. One below the prefix leads out of its tree, so it is nothing: neither it nor what
is behind it is read or listed. It writes in place, too: a file may be seen half written.
"""

from __future__ import annotations

import errno
import os
import stat

from bucketry.store.contract import FOREIGN_PREFIX

# No name of the tree is so long that the file system refuses it, so what has one is not there.
_NOTHING = (errno.ELOOP, errno.ENAMETOOLONG)


def is_behind_link(root: str, key: str) -> bool:
    """Whether the path of a foreign key, or of a folder there, has a symbolic link below the prefix.

    False of a path that ends before: whoever opens it finds out.
    """
    path = f"{root}/{FOREIGN_PREFIX}".removesuffix("/")
    below = key[len(FOREIGN_PREFIX) :]
    for name in below.split("/") if below else ():
        path = f"{path}/{name}"
        try:
            status = os.lstat(path)
        except OSError:
            return False
        if stat.S_ISLNK(status.st_mode):
            return True
    return False


def open_file(root: str, key: str) -> int:
    """A descriptor for reading; of a folder too. Raises `FileNotFoundError`, and what else the file system says."""
    path = f"{root}/{key}"
    try:
        if is_behind_link(root, key):
            raise FileNotFoundError(errno.ENOENT, "behind a symbolic link", path)
        # A pipe that someone left there is not waited for.
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NOTHING:
            raise FileNotFoundError(errno.ENOENT, "no such file", path) from error
        raise
