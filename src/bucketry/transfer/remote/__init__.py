"""A registry spoken to over HTTP: the distribution spec's client, and that of the parallel extension.

- ``address``: origins, and the addresses that answers name
- ``credentials``, ``helpers``: what this machine's files and credential helpers know
- ``challenges``, ``auth``: who gets credentials, and tokens
- ``payload``, ``answer``, ``session``: aiohttp, and what its errors mean
- ``endpoint``: one registry: authorized requests, redirects, what its refusals mean
- ``repository``, ``extension``, ``blob``: the contract
"""

from __future__ import annotations

from bucketry.transfer.remote.credentials import CredentialStore
from bucketry.transfer.remote.repository import RemoteRepository
from bucketry.transfer.remote.session import Session

__all__ = ["CredentialStore", "RemoteRepository", "Session"]
