"""Names of images as people type them, in skopeo's words where it has them.

=============================== ==========================================================================
``host/name:tag``               a repository of a registry; ``docker://`` may stand before it
``s3://bucket/prefix/name:tag`` a repository of the registry in a bucket, without its server
``file:/folder/name:tag``       the same of a registry in a folder
``docker-daemon:name:tag``      an image of the local Docker Engine
``docker-archive:FILE[:name]``  what ``docker save`` writes
``oci:DIR[:tag]``               an OCI layout
``oci-archive:FILE[:tag]``      an OCI layout in a tar
``https://host/name:tag``       a published site; ``https://host/folder//name:tag`` where it is not at the top
=============================== ==========================================================================

In ``s3://bucket/a/b/name:tag`` and ``file:/a/b/name:tag`` the registry may be at any of the folders: it is where its
``bucketry.json`` is found, the deepest where there are several. Where none is there yet, ``name`` alone is the
repository, and the registry is made in the folder before it. Two slashes say it without a search:
``s3://bucket/a//b/name:tag`` is the repository ``b/name`` of the registry in ``s3://bucket/a``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bucketry.oci import Digest, ImageReference, parse_repository, parse_tag
from bucketry.oci.errors import OCIError
from bucketry.oci.reference import DEFAULT_TAG
from bucketry.oci.text import quoted
from bucketry.transfer.errors import NameUnusable

Kind: TypeAlias = Literal["registry", "bucket", "docker-daemon", "docker-archive", "oci", "oci-archive", "site"]

Role: TypeAlias = Literal["push from", "push to", "pull from", "pull to", "copy from", "copy to", "inspect"]
"""What the name stands for in a command. A plain name is an image of the Docker Engine where a push begins and where
a pull ends, and a repository of a registry everywhere else."""

_SOURCES: Final[frozenset[Kind]] = frozenset({"registry", "bucket", "oci", "oci-archive", "site"})
_SAVED: Final[frozenset[Kind]] = frozenset({"docker-daemon", "docker-archive"})
_REPOSITORIES: Final[frozenset[Kind]] = frozenset({"registry", "bucket"})
_ALLOWED: Final[dict[Role, frozenset[Kind]]] = {
    "push from": _SOURCES | _SAVED,
    "push to": _REPOSITORIES,
    "pull from": _SOURCES,
    "pull to": _SAVED | {"oci", "oci-archive"},
    "copy from": _SOURCES,
    "copy to": _REPOSITORIES,
    "inspect": _SOURCES,
}
_WORDS: Final = ("docker-daemon", "docker-archive", "oci-archive", "oci", "s3", "file", "docker")
_FORMS: Final[dict[Kind, str]] = {
    "registry": "HOST/NAME:TAG",
    "bucket": "s3://BUCKET/PREFIX/NAME:TAG",
    "docker-daemon": "docker-daemon:NAME:TAG",
    "docker-archive": "docker-archive:FILE",
    "oci": "oci:DIR:TAG",
    "oci-archive": "oci-archive:FILE:TAG",
    "site": "https://HOST/NAME:TAG",
}
_ORDER: Final[tuple[Kind, ...]] = (
    "registry",
    "bucket",
    "docker-daemon",
    "docker-archive",
    "oci",
    "oci-archive",
    "site",
)
_WORD: Final = re.compile(r"([A-Za-z][A-Za-z0-9+-]*):(.*)", re.DOTALL)
_FOLDER: Final = re.compile(r"[A-Za-z0-9._~@-]+", re.ASCII)
_OTHERS: Final = {
    "dir": "oci",
    "containers-storage": "docker-daemon",
    "ostree": "oci",
    "sif": "oci-archive",
    "tarball": "docker-archive",
    "gs": "s3",
    "podman": "docker-daemon",
}
"""Words of other tools, and what comes nearest here."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a name says. `parse_place` makes them; fields that its ``kind`` has no use for are empty."""

    kind: Kind
    text: str
    """As it was typed."""
    image: ImageReference | None = None
    """Of a registry, and of a site."""
    plain: bool = False
    """Of a site: over http."""
    store: str = ""
    """Of a bucket: what comes before all folders, such as ``s3://bucket`` or ``file:/``."""
    folders: tuple[str, ...] = ()
    """Of a bucket: all that follows, the repository's name included."""
    split: int | None = None
    """How many of the folders come before the repository's name, where two slashes say so."""
    options: str = ""
    """Of a bucket: the query of its URL."""
    path: str = ""
    """Of archives and layouts; of a site: below which path of its host it is, empty or ``/…``."""
    name: str = ""
    """Of archives and layouts: the image in them; of the Docker Engine: the image."""
    tag: str | None = None
    digest: Digest | None = None

    @property
    def reference(self) -> Digest | str:
        """What to ask a repository for."""
        return self.digest or self.tag or DEFAULT_TAG

    def candidates(self) -> tuple[tuple[str, str], ...]:
        """Of a bucket: the stores and repositories that may be meant, the deepest store first."""
        counts = range(len(self.folders) - 1, -1, -1) if self.split is None else (self.split,)
        return tuple(
            (self._store(self.folders[:count]), "/".join(self.folders[count:]))
            for count in counts
            if _is_repository("/".join(self.folders[count:]))
        )

    def _store(self, folders: tuple[str, ...]) -> str:
        path = "/".join(folders)
        joined = f"{self.store}{path}" if self.store.endswith("/") or not path else f"{self.store}/{path}"
        return f"{joined}?{self.options}" if self.options else joined


def parse_place(text: str, *, role: Role) -> Place:
    """Raises `NameUnusable`, which names the nearest right form."""
    place = _parse(text, role)
    if place.kind not in _ALLOWED[role]:
        forms = ", ".join(_FORMS[kind] for kind in _ORDER if kind in _ALLOWED[role])
        hint = ": bucketry push does that" if role == "copy from" else ""
        raise NameUnusable(f"{quoted(text)} cannot be what is {_role(role)}{hint}. It is one of {forms}")
    return place


def _role(role: Role) -> str:
    verb, _, way = role.partition(" ")
    return {"push": "pushed", "pull": "pulled", "copy": "copied", "inspect": "inspected"}[verb] + (
        f" {way}" if way == "to" else ""
    )


def _parse(text: str, role: Role) -> Place:
    if not text or not text.isprintable() or text != text.strip():
        raise NameUnusable(f"{quoted(text)} is no name of an image: write {_FORMS['registry']}")
    word = _WORD.fullmatch(text)
    name, rest = (word[1], word[2]) if word else ("", text)
    match name:
        case "s3":
            return _bucket(text, rest)
        case "file":
            return _folder(text, rest)
        case "docker-daemon":
            return _engine(text, rest)
        case "docker-archive" | "oci" | "oci-archive":
            return _file(name, text, rest)
        case "http" | "https" if rest.startswith("//"):
            return _site(name, text, rest[2:], role)
        case "docker" if rest.startswith("//"):
            return _registry(text, rest[2:])
    _refuse_near(name, rest, text)
    if role in ("push from", "pull to"):
        return _engine(text, text)
    return _registry(text, text)


def _refuse_near(name: str, rest: str, text: str) -> None:
    """A word that is none of ours could be a host, or a name with a tag; what is close to one of ours is a slip."""
    scheme = rest.startswith("//")
    near = _OTHERS.get(name.lower()) if scheme or name.lower() not in ("podman", "gs") else None
    if near is None and name and name not in _WORDS and (scheme or len(name) > 5):
        near = next(iter(difflib.get_close_matches(name.lower(), _WORDS, 1, 0.5 if scheme else 0.8)), None)
    if near is None and name.lower() in _WORDS and name not in _WORDS:
        near = name.lower()
    if near is not None:
        raise NameUnusable(f"there are no {name}: names; did you mean {near}:? ({_form(near)})")
    if scheme and name:
        raise NameUnusable(f"there are no {name}:// names: write {_FORMS['registry']} or {_FORMS['bucket']}")


def _form(word: str) -> str:
    if word == "file":
        return "file:/FOLDER/NAME:TAG"
    kinds: dict[str, Kind] = {kind: kind for kind in _ORDER}
    return _FORMS[{**kinds, "s3": "bucket", "docker": "registry"}[word]]


def _registry(text: str, name: str) -> Place:
    try:
        image = ImageReference.parse(name)
    except OCIError as error:
        raise NameUnusable(error.message) from error
    return Place("registry", text, image=image, tag=image.tag, digest=image.digest)


def _site(scheme: str, text: str, rest: str, role: Role) -> Place:
    if "site" not in _ALLOWED[role]:
        raise NameUnusable(f"{quoted(text)}: leave out {scheme}://, and write {quoted(rest.strip('/'))}")
    authority, _, path = rest.partition("/")
    folder, two, name = path.partition("//")
    if path.startswith("/"):
        folder, name = "", path[1:]
    elif not two:
        folder, name = "", path
    parts = folder.split("/") if folder else []
    if not all(map(_FOLDER.fullmatch, parts)) or any(part in (".", "..") for part in parts):
        raise NameUnusable(f"{quoted(text)}: {quoted(folder)} is no path of a site: write {_FORMS['site']}")
    try:
        image = ImageReference.parse(f"{authority}/{name}")
    except OCIError as error:
        raise NameUnusable(f"{quoted(text)}: {error.message}") from error
    root = "".join(f"/{part}" for part in parts)
    return Place("site", text, image=image, plain=scheme == "http", path=root, tag=image.tag, digest=image.digest)


def _engine(text: str, name: str) -> Place:
    if not name or "//" in name:
        raise NameUnusable(f"{quoted(text)} names no image of the Docker Engine: write {_FORMS['docker-daemon']}")
    return Place("docker-daemon", text, name=name)


def _file(kind: Literal["docker-archive", "oci", "oci-archive"], text: str, rest: str) -> Place:
    path, colon, name = rest.partition(":")
    if not path or path.startswith("//") or (colon and not name):
        raise NameUnusable(f"{quoted(text)} names no file: write {_FORMS[kind]}")
    if kind == "docker-archive" or not name:
        return Place(kind, text, path=path, name=name)
    digest: Digest | None = None
    tag: str | None = None
    try:
        # A layout's tags are free text by the image spec, but what is pushed from it needs one by the registry's.
        if name.startswith("@"):
            digest = Digest.parse(name[1:])
        else:
            tag = parse_tag(name)
    except OCIError as error:
        raise NameUnusable(f"{quoted(text)}: {error.message}") from error
    return Place(kind, text, path=path, name=name, tag=tag, digest=digest)


def _bucket(text: str, rest: str) -> Place:
    if not rest.startswith("//"):
        raise NameUnusable(f"{quoted(text)} is no name in a bucket: write {_FORMS['bucket']}")
    body, _, options = rest[2:].partition("?")
    bucket, slash, path = body.partition("/")
    if not bucket or not slash or ":" in bucket or "@" in bucket:
        raise NameUnusable(f"{quoted(text)} names no image in a bucket: write {_FORMS['bucket']}")
    return _split(text, f"s3://{bucket}", path, options)


def _folder(text: str, rest: str) -> Place:
    if rest.startswith("///"):
        rest = rest[2:]
    elif rest.startswith("//"):
        raise NameUnusable(f"{quoted(text)} names another machine: write file:/FOLDER/NAME:TAG")
    if rest.startswith("/"):
        return _split(text, "file:/", rest[1:], "")
    first, slash, path = rest.partition("/")
    if not first or not slash:
        raise NameUnusable(f"{quoted(text)} names no image in a folder: write file:/FOLDER/NAME:TAG")
    return _split(text, f"file:{first}", path, "")


def _split(text: str, store: str, path: str, options: str) -> Place:
    path, at, digest_text = path.partition("@")
    front, _, last = path.rpartition("/")
    last, colon, tag = last.partition(":")
    path = f"{front}/{last}" if front or path.startswith("/") else last
    before, explicit, after = path.partition("//") if not path.startswith("/") else ("", "/", path[1:])
    folders = tuple(before.split("/")) if before else ()
    split = None
    if explicit:
        split = len(folders)
        folders += tuple(after.split("/"))
    if not all(folders) or not folders or any(part in (".", "..") for part in folders):
        raise NameUnusable(f"{quoted(text)} is no name of an image: an empty folder, or one of dots, is in it")
    try:
        # The least that the repository's name can be.
        parse_repository("/".join(folders[split:]) if split is not None else folders[-1])
        place = Place(
            "bucket",
            text,
            store=store,
            folders=folders,
            split=split,
            options=options,
            tag=parse_tag(tag) if colon else None,
            digest=Digest.parse(digest_text) if at else None,
        )
    except OCIError as error:
        raise NameUnusable(f"{quoted(text)}: {error.message}") from error
    return place


def _is_repository(name: str) -> bool:
    try:
        parse_repository(name)
    except OCIError:
        return False
    return True
