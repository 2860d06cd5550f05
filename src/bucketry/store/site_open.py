"""From the name of a site to the site: ``s3://bucket/prefix``, ``file:/path``, a plain path."""

from __future__ import annotations

import re
from pathlib import Path

from bucketry.store.observe import NULL_OBSERVER, StoreObserver
from bucketry.store.open import StoreNameInvalid, StoreOptions, s3_settings
from bucketry.store.site import SiteStore

_DEFAULTS = StoreOptions()
_KINDS = "a site is s3://BUCKET/PREFIX or a folder"


def open_site(url: str, options: StoreOptions = _DEFAULTS, *, observer: StoreObserver = NULL_OBSERVER) -> SiteStore:
    """The site of that name, not started yet. Raises `StoreNameInvalid`.

    Options in an ``s3://`` URL (``?endpoint=…``) win over ``options``. What is about another kind is left aside.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    kind = scheme[1].lower() if scheme else "path"
    try:
        if kind == "s3":
            # Here, so that a folder needs neither botocore nor aiohttp.
            from bucketry.store.s3.site import S3Site

            return S3Site(s3_settings(url, options), observer=observer)
        if kind in {"file", "path"}:
            return _open_folder(url, options, observer)
    except ValueError as error:
        raise StoreNameInvalid(str(error)) from error
    raise StoreNameInvalid(_unknown(kind))


def _open_folder(url: str, options: StoreOptions, observer: StoreObserver) -> SiteStore:
    from bucketry.store.site_folder import FolderSite

    if not url:
        raise ValueError(f"the site has no name; {_KINDS}")
    if "\0" in url:
        raise ValueError("the name of a folder has no NUL in it")
    # A shell expands ~, a configuration file does not.
    root = f"file:{url[5:]}" if url[:5].lower() == "file:" else Path(url).expanduser()
    return FolderSite(root, fsync=options.fsync, observer=observer)


def _unknown(kind: str) -> str:
    if kind in {"http", "https"}:
        return f"a site is not written by its {kind}: address: name where its files are, s3://BUCKET/PREFIX or a folder"
    if kind == "memory":
        return f"memory: is served to nobody; {_KINDS}"
    return f"there are no {kind}: sites; {_KINDS} (write ./{kind}:… for a folder of that name)"
