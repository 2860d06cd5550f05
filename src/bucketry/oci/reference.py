"""Names of things in registries: repository names, tags, and the references that people type.

Repository and tag grammar: distribution spec, "Pulling manifests". The host defaults of `ImageReference` are
in no spec: they are the convention that docker began and every client follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from bucketry.oci.digest import Digest
from bucketry.oci.errors import DigestInvalid, NameInvalid, TagInvalid
from bucketry.oci.text import quoted

MAX_NAME: Final = 255
"""Characters in a repository name.

The spec sets no limit, but says that many clients take at most 255 for host and name together: a longer name
could be pushed by some clients and pulled by few.
"""

MAX_TAG: Final = 128
"""Characters in a tag (the spec's limit)."""

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_TAG: Final = "latest"

_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG: Final = re.compile(rf"[a-zA-Z0-9_][a-zA-Z0-9._-]{{0,{MAX_TAG - 1}}}")

_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_IPV6: Final = r"\[(?P<v6>[0-9a-fA-F:.]+)\]"
_HOST: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|{_IPV6})(?::(?P<port>[0-9]{{1,5}}))?")
_IMAGE_ID: Final = re.compile(r"[0-9a-f]{64}")
_OFFICIAL: Final = "library"
_OLD_DEFAULT_REGISTRY: Final = "index.docker.io"


def parse_repository(name: str) -> str:
    """``name``, if it is a repository name by the spec's grammar and no longer than `MAX_NAME`.

    Raises `NameInvalid`.
    """
    if len(name) > MAX_NAME:
        raise NameInvalid(
            f"repository name {quoted(name, 40)} has {len(name)} characters: at most {MAX_NAME} are allowed"
        )
    if not _NAME.fullmatch(name):
        raise NameInvalid(
            f"{quoted(name)} is not a repository name: use lower-case letters, digits and single separators "
            "(. _ __ or dashes) between them, in parts joined by /, such as team/app"
        )
    return name


def parse_tag(tag: str) -> str:
    """``tag``, if it is a tag by the spec's grammar. Raises `TagInvalid`."""
    if not _TAG.fullmatch(tag):
        raise TagInvalid(
            f"{quoted(tag)} is not a tag: use 1 to {MAX_TAG} letters, digits, '_', '.' and '-', "
            "not beginning with '.' or '-'"
        )
    return tag


def parse_reference(text: str) -> Digest | str:
    """The end of ``/v2/<name>/manifests/<reference>``: a `Digest` if it holds a colon, else a tag.

    Raises `DigestInvalid` or `TagInvalid`.
    """
    return Digest.parse(text) if ":" in text else parse_tag(text)


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Where an image is: ``registry`` (host or host:port), ``repository``, and a ``tag``, ``digest`` or both.

    ``str()`` gives the full form, with every default but the tag written out, and `parse` takes it back to an
    equal value. The constructor refuses what has no such form, with the errors of `parse`.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        _check_host(self.registry)
        if not _is_host(self.registry) or self.registry == _OLD_DEFAULT_REGISTRY:
            raise NameInvalid(
                f"{quoted(self.registry)} cannot stand for a registry in a reference: "
                "write a host with a dot or a port, or localhost"
            )
        parse_repository(self.repository)
        if self.registry == DEFAULT_REGISTRY and "/" not in self.repository:
            raise NameInvalid(
                f"{self.repository} on {DEFAULT_REGISTRY} is called {_OFFICIAL}/{self.repository}: write it in full"
            )
        if self.tag is not None:
            parse_tag(self.tag)

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """The reference written as ``[host[:port]/]name[:tag][@digest]``.

        The first part is a host if it holds a ``.``, a ``:`` or a capital letter, or is ``localhost``; an
        IPv6 address stands in brackets. Without a host it is ``docker.io``, where a name of one part is
        below ``library/``. No tag is put in (see `reference`).

        Raises `NameInvalid`, `TagInvalid` or `DigestInvalid`.
        """
        if "://" in text:
            raise NameInvalid(f"{quoted(text)} is not an image reference: leave out the scheme, such as https://")
        name, at, digest_text = text.partition("@")
        if _IMAGE_ID.fullmatch(text):
            # Clients take 64 hex digits for an image id, never for a name.
            raise NameInvalid(
                f"{quoted(text)} looks like an image id: write name@sha256:hex, or the full name with its registry"
            )
        first, slash, rest = name.partition("/")
        if slash and _is_host(first):
            registry, path = first, rest
        else:
            registry, path = DEFAULT_REGISTRY, name
        repository, colon, tag = path.partition(":")
        if registry == _OLD_DEFAULT_REGISTRY:
            registry = DEFAULT_REGISTRY
        if registry == DEFAULT_REGISTRY and "/" not in repository:
            parse_repository(repository)  # so that the message shows what was typed
            repository = f"{_OFFICIAL}/{repository}"
        if at and not digest_text:
            raise DigestInvalid(f"{quoted(text)} has no digest after the @: write name@sha256:hex")
        return cls(
            registry,
            repository,
            tag if colon else None,
            Digest.parse(digest_text) if at else None,
        )

    @property
    def reference(self) -> Digest | str:
        """What to ask the registry for: the digest if there is one, else the tag, else ``latest``."""
        return self.digest or self.tag or DEFAULT_TAG

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{self.registry}/{self.repository}{tag}{digest}"


def _is_host(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first.lower() != first


def _check_host(host: str) -> None:
    match = _HOST.fullmatch(host)
    if match is None:
        raise NameInvalid(
            f"{quoted(host)} is not a registry host: write host, host:port or [ipv6]:port, such as localhost:5000"
        )
    if match["v6"] is not None:
        try:
            IPv6Address(match["v6"])
        except AddressValueError:
            raise NameInvalid(f"{quoted(host)} is not a registry host: no IPv6 address is in the brackets") from None
    if match["port"] is not None and not 0 < int(match["port"]) < 65536:
        raise NameInvalid(f"{quoted(host)} is not a registry host: a port is a number from 1 to 65535")
