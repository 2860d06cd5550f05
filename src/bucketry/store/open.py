"""From the name of a store to the store: ``s3://bucket/prefix``, ``file:/path``, a plain path, ``memory:``."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from bucketry.store.contract import Store, StoreError
from bucketry.store.observe import NULL_OBSERVER, StoreObserver

if TYPE_CHECKING:
    from bucketry.store.s3.config import S3Settings

_SCHEMES = ("s3", "file", "memory")
_KINDS = "a store is s3://BUCKET/PREFIX, a folder, or memory:"


class StoreNameInvalid(StoreError):
    """The name of a store, or an option for it, that cannot be right. Nothing was asked of any store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What the configuration says of a store besides its URL; it mirrors the section ``store``.

    Timeouts in seconds. ``repr`` shows no secret.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    checksum: Literal["auto", "none", "md5", "crc32", "sha256"] = "auto"
    sign_payload: bool = False
    sse: Literal["AES256", "aws:kms"] | None = None
    sse_kms_key_id: str | None = None
    storage_class: str | None = None
    public_endpoint: str | None = None
    ca_bundle: str | None = None
    profile: str | None = None
    anonymous: bool = False
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    max_connections: int = 64
    connect_timeout: float = 5.0
    read_timeout: float = 60.0
    retries: int = 6
    deadline: float = 30.0
    fsync: bool = True


_DEFAULTS = StoreOptions()


def open_store(
    url: str,
    options: StoreOptions = _DEFAULTS,
    *,
    observer: StoreObserver = NULL_OBSERVER,
    checked_put: bool | None = None,
) -> Store:
    """The store of that name, not started yet. Raises `StoreNameInvalid`.

    ``checked_put``: whether a probe found that presigned PUTs are enforced (`ProbeReport.checked_put`); None where
    none was made. It is `Capabilities.checked_put` then.

    Options in an ``s3://`` URL (``?endpoint=…``) win over ``options``. What is about another kind of store is
    left aside.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    kind = scheme[1].lower() if scheme else "path"
    try:
        if kind == "s3":
            return _open_s3(url, options, observer, checked_put)
        if kind in {"file", "path"}:
            return _open_folder(url, options, observer)
    except ValueError as error:
        raise StoreNameInvalid(str(error)) from error
    if kind == "memory":
        if url.lower() != "memory:":
            raise StoreNameInvalid("memory: takes nothing behind the colon")
        from bucketry.store.memory import MemoryStore

        return MemoryStore(observer=observer)
    raise StoreNameInvalid(_unknown(kind))


def s3_settings(url: str, options: StoreOptions, *, checked_put: bool | None = None) -> S3Settings:
    """What the S3 client is told: the options, but for those that the URL sets. Raises `ValueError`."""
    from bucketry.store.s3.config import S3Settings

    settings = S3Settings.from_url(url)
    in_url = {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    values: dict[str, Any] = {
        "endpoint": options.endpoint,
        "region": options.region,
        "addressing": options.addressing,
        "checksum": options.checksum,
        "sign_payload": options.sign_payload,
        "sse": options.sse,
        "sse_kms_key_id": options.sse_kms_key_id,
        "storage_class": options.storage_class,
        "public_endpoint": options.public_endpoint,
        "ca_bundle": options.ca_bundle,
        "profile": options.profile,
        "anonymous": options.anonymous,
        "access_key": options.access_key_id,
        "secret_key": options.secret_access_key,
        "session_token": options.session_token,
        "max_connections": options.max_connections,
        "connect_timeout": options.connect_timeout,
        "read_timeout": options.read_timeout,
        "retries": options.retries,
        "deadline": options.deadline,
        "checked_put": checked_put,
    }
    return replace(settings, **{name: value for name, value in values.items() if name not in in_url})


def _open_s3(url: str, options: StoreOptions, observer: StoreObserver, checked_put: bool | None) -> Store:
    # Here, so that a folder needs neither botocore nor aiohttp.
    from bucketry.store.s3 import S3Store

    return S3Store(s3_settings(url, options, checked_put=checked_put), observer=observer)


def _open_folder(url: str, options: StoreOptions, observer: StoreObserver) -> Store:
    from bucketry.store.local import LocalStore

    if not url:
        raise ValueError(f"the store has no name; {_KINDS}")
    if "\0" in url:
        raise ValueError("the name of a folder has no NUL in it")
    # A shell expands ~, a configuration file does not.
    root = f"file:{url[5:]}" if url[:5].lower() == "file:" else Path(url).expanduser()
    return LocalStore(root, fsync=options.fsync, observer=observer)


def _unknown(scheme: str) -> str:
    if scheme in {"http", "https"}:
        return (
            "a store is not named by the URL of its service: write s3://BUCKET/PREFIX, "
            "and set store.endpoint to the URL"
        )
    near = difflib.get_close_matches(scheme, _SCHEMES, n=1)
    hint = f"did you mean {near[0]}:?" if near else _KINDS
    return f"there are no {scheme}: stores; {hint} (write ./{scheme}:… for a folder of that name)"
