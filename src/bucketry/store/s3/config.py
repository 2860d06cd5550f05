"""What may be set of an S3 store, and the URLs that set it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, urlsplit

from bucketry.store.checks import is_key

Addressing: TypeAlias = Literal["auto", "path", "virtual"]
Checksum: TypeAlias = Literal["auto", "none", "md5", "crc32", "sha256"]
Encryption: TypeAlias = Literal["AES256", "aws:kms"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9:/_.-]+", re.ASCII)
_UNREADABLE = ("GLACIER", "DEEP_ARCHIVE")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """One bucket, or the part of it below ``prefix``, and how to talk to it.

    ``url`` never holds a secret, nor does ``repr``. Raises `ValueError` for values that cannot work.
    """

    bucket: str
    prefix: str = ""
    """Keys are kept below ``prefix/``; no slash at either end."""

    endpoint: str | None = None
    """``https://host[:port][/path]``. None: ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, the profile's, or AWS."""

    region: str | None = None
    """None: ``AWS_REGION``, ``AWS_DEFAULT_REGION``, the profile's, or ``us-east-1`` (which R2 takes as ``auto``)."""

    addressing: Addressing = "auto"
    """``path`` puts the bucket into the path, ``virtual`` into the host name.

    ``auto`` is virtual on AWS, path for every other endpoint and for buckets with a dot (no certificate covers them).
    """

    checksum: Checksum = "auto"
    """What the store verifies a body by when it arrives.

    ``auto`` sends Content-MD5, which every dialect of S3 knows, with everything but blob bytes: those are verified
    by digest whenever they are read, and MD5 would cost 1.6 CPU seconds a GiB. ``md5``, ``crc32`` and ``sha256`` go
    with every body, parts included (a bucket with object lock wants one); the last two need a store that knows
    ``x-amz-checksum-…`` (AWS, R2, MinIO, SeaweedFS do). No trailers, which many stores reject.
    """

    sign_payload: bool = False
    """Whether the signature covers the hash of large bodies too, those over 64 KiB.

    It halves the throughput (SHA-256 of every byte). Over https nothing is gained; over plain http it keeps a man in
    the middle from changing blob bytes, which readers would notice by their digest anyway. Small bodies (records,
    tags, lists to delete) are always covered.
    """

    sse: Encryption | None = None
    """Encryption at rest that is asked for with every write; None leaves it to the bucket."""

    sse_kms_key_id: str | None = None
    """The key for ``aws:kms``; None is the account's default one."""

    storage_class: str | None = None
    """For blob bytes (keys below ``data/``): ``STANDARD_IA``, ``INTELLIGENT_TIERING``, ``GLACIER_IR``, …"""

    public_endpoint: str | None = None
    """The endpoint in presigned URLs where clients reach the store by another name than this process does."""

    profile: str | None = None
    """A profile of the AWS configuration files. None: ``AWS_PROFILE``, or the default one."""

    anonymous: bool = False
    """Requests are not signed: for buckets that anyone may read."""

    conditional_delete: bool | None = None
    """Whether DELETE honours If-Match. None: found out by `S3Store.start` with the deletion of a key that is not there.

    MinIO is one that ignores the condition and deletes.
    """

    checked_put: bool | None = None
    """Whether a presigned PUT takes only the bytes of the SHA-256 that was signed, and never replaces an object.

    None: nobody knows, so no. `bucketry.store.probe` finds out.
    """

    ca_bundle: str | None = None
    """A file of certificates (PEM) to trust instead of the system's. None: ``AWS_CA_BUNDLE``, or the profile's."""

    max_connections: int = 64
    """Connections at once; further requests wait for one."""

    connect_timeout: float = 10.0
    """Seconds to open a connection."""

    read_timeout: float = 60.0
    """Seconds without a byte, in either direction, after which a request counts as lost."""

    retries: int = 6
    """How often a request is sent again."""

    deadline: float = 60.0
    """Seconds after its beginning in which an operation may begin another try. A try that makes progress is not cut."""

    access_key: str | None = None
    """With ``secret_key``: these credentials, instead of those botocore finds."""

    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if _BUCKET.fullmatch(self.bucket) is None:
            raise ValueError(f"not the name of a bucket: {self.bucket!r}")
        if self.prefix and (not is_key(self.prefix) or len(self.prefix) > 100):
            raise ValueError(
                f"not a prefix: {self.prefix!r}; a prefix is at most 100 characters of [A-Za-z0-9._~/-], "
                "without a slash at either end"
            )
        for name, url in (("endpoint", self.endpoint), ("public_endpoint", self.public_endpoint)):
            if url is not None:
                check_endpoint(name, url)
        for name, value, choices in (
            ("addressing", self.addressing, get_args(Addressing)),
            ("checksum", self.checksum, get_args(Checksum)),
            ("sse", self.sse or "AES256", get_args(Encryption)),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value} is not one of {', '.join(choices)}")
        for name, word in (
            ("region", self.region),
            ("sse_kms_key_id", self.sse_kms_key_id),
            ("storage_class", self.storage_class),
        ):
            if word is not None and _WORD.fullmatch(word) is None:
                raise ValueError(f"not a {name}: {word!r}")
        if self.sse_kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError("sse_kms_key_id needs sse=aws:kms")
        if self.storage_class in _UNREADABLE:
            raise ValueError(
                f"storage_class={self.storage_class} cannot hold blobs: they must be readable at once; "
                "GLACIER_IR is the coldest class that is"
            )
        for name, number, least in (
            ("max_connections", self.max_connections, 1),
            ("connect_timeout", self.connect_timeout, 0.01),
            ("read_timeout", self.read_timeout, 0.01),
            ("retries", self.retries, 0),
            ("deadline", self.deadline, 0),
        ):
            if not least <= number < 1e9:
                raise ValueError(f"{name}={number} must be at least {least}")
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key go together")
        if self.session_token is not None and self.access_key is None:
            raise ValueError("session_token needs access_key and secret_key")
        if self.anonymous and self.access_key is not None:
            raise ValueError("anonymous=true and an access key exclude each other")

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    @property
    def root(self) -> str:
        """What every key in the bucket begins with: ``prefix/``, or nothing."""
        return f"{self.prefix}/" if self.prefix else ""

    @classmethod
    def from_url(cls, url: str) -> S3Settings:
        """Reads ``s3://bucket/prefix?option=value&…``; the options are this class's fields, without the secrets."""
        parts = urlsplit(url)
        if parts.scheme != "s3":
            raise ValueError(f"not an s3:// URL: {_shown(url)}")
        if "@" in parts.netloc:
            raise ValueError(
                "credentials do not belong into an s3:// URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if parts.fragment:
            raise ValueError(f"an s3:// URL has no fragment: {_shown(url)}")
        if not parts.netloc:
            raise ValueError(f"no bucket in {_shown(url)}; it is s3://bucket/prefix")
        if ":" in parts.netloc:
            raise ValueError(f"{parts.netloc!r} is not a bucket: write s3://bucket?endpoint=https://host:port")
        found: dict[str, str | int | float | bool] = {}
        try:
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise ValueError(f"the options of {_shown(url)} are not of the form name=value&…") from error
        for name, text in pairs:
            read = _OPTIONS.get(name)
            if read is None:
                raise ValueError(_unknown(name))
            if name in found:
                raise ValueError(f"the option {name} is given twice in {_shown(url)}")
            try:
                found[name] = read(text)
            except ValueError:
                raise ValueError(f"the option {name}={text} is not {_KINDS[read]}") from None
        return cls(bucket=parts.netloc, prefix=parts.path.strip("/"), **found)  # type: ignore[arg-type]


def check_endpoint(name: str, url: str) -> None:
    """Raises `ValueError` where ``url`` is not ``http[s]://host[:port][/path]``."""
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError(f"{name} {url!r} is not a URL") from None
    if "://" not in url:
        raise ValueError(f"{name} {url!r} has no scheme; did you mean https://{url} or http://{url}?")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits:
        raise ValueError(f"{name} {url!r} is not of the form https://host:port")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{name} must be https://host:port, without credentials and without a query")
    if re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", parts.netloc, re.ASCII) is None:
        raise ValueError(f"{name} {url!r} is not of the form https://host:port")
    if re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", parts.path, re.ASCII) is None:
        raise ValueError(f"{name} {url!r} has a path that cannot be signed")


def _flag(text: str) -> bool:
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return values[text.lower()]
    except KeyError:
        raise ValueError from None


def _word(text: str) -> str:
    if not text:
        raise ValueError
    return text


_KINDS: Mapping[Callable[[str], str | int | float | bool], str] = {
    _flag: "true or false",
    _word: "a value",
    int: "a whole number",
    float: "a number of seconds",
}

_OPTIONS: Mapping[str, Callable[[str], str | int | float | bool]] = {
    "endpoint": _word,
    "region": _word,
    "addressing": _word,
    "checksum": _word,
    "sign_payload": _flag,
    "sse": _word,
    "sse_kms_key_id": _word,
    "storage_class": _word,
    "public_endpoint": _word,
    "profile": _word,
    "anonymous": _flag,
    "conditional_delete": _flag,
    "checked_put": _flag,
    "ca_bundle": _word,
    "max_connections": int,
    "connect_timeout": float,
    "read_timeout": float,
    "retries": int,
    "deadline": float,
}

_SECRETS = ("access_key", "secret_key", "session_token", "access_key_id", "secret_access_key")


def _unknown(name: str) -> str:
    if name in _SECRETS:
        return f"{name} does not belong into a URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    near = difflib.get_close_matches(name.lower().replace("-", "_"), _OPTIONS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_OPTIONS)}"
    return f"unknown option {name!r} of an s3:// URL: {hint}"


def _shown(url: str) -> str:
    """The URL without its query and user, which might hold what must not be printed."""
    return url.partition("?")[0].rpartition("@")[2][:200]
