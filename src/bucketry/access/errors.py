"""What goes wrong before anything is decided.

The tree::

    AccessError
    ├── PrincipalInvalid    no way to write a principal
    ├── AccessFileInvalid   a file of rules that cannot be used
    ├── UsersInvalid        a file of users that cannot be used
    └── TokenInvalid        a robot's token that was cut off or mistyped

A bad scope is an error of the API, and so an `bucketry.oci.errors.OCIError`: `bucketry.access.scopes.ScopeInvalid`.
No message repeats a secret.
"""

from __future__ import annotations

from collections.abc import Sequence


class AccessError(Exception):
    """One line for a person, who is to change something."""


class PrincipalInvalid(AccessError):
    pass


class UnusableFile(AccessError):
    """``problems``: a line each, with the file's path and the place in it; never empty. ``str()`` is one line."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = len(problems) - 1
        super().__init__(problems[0] + (f" (and {more} more)" if more else ""))
        self.problems = tuple(problems)


class AccessFileInvalid(UnusableFile):
    pass


class UsersInvalid(UnusableFile):
    pass


class TokenInvalid(AccessError):
    pass
