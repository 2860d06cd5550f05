"""Good requests for every route of a registry with rules: what a fuzzer begins with, and where its answers lead."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from tests.support.api import EMPTY, OCTET_STREAM, descriptor
from tests.support.extension import DISCOVER, UPLOAD_TYPE
from tests.support.fuzzing import Reply, Shot
from tests.support.images import OCI_INDEX, OCI_MANIFEST, digest_of

REPOSITORIES: Final = ("fuzz/a", "fuzz/b/c-d", "fuzz/ci/app", "open/tool")
GONE: Final = "fuzz/gone"
"""Where things are deleted."""
FORM: Final = "application/x-www-form-urlencoded"
KEPT_SESSIONS: Final = 24
TAGS: Final = tuple(f"t{number}" for number in range(12))


@dataclass(slots=True)
class Draft:
    """A request that may still be changed. All text is as it is sent, in latin-1; ``path`` are the segments.

    ``document``: what ``body`` is made of, where it is JSON. ``fields``: the same of a form.
    """

    name: str
    method: str
    path: list[str]
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | None = None
    document: Any = None
    fields: list[tuple[str, str]] | None = None
    good: tuple[int, ...] = (200,)
    then: Callable[[Reply], None] | None = None
    chunked: bool = False

    def set(self, name: str, value: str) -> None:
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        self.headers.append((name, value))

    def target(self) -> str:
        path = "/" + "/".join(self.path)
        return f"{path}?{'&'.join(f'{n}={v}' for n, v in self.query)}" if self.query else path

    def head(self) -> str:
        lines = [f"{self.method} {self.target()} HTTP/1.1", "Host: registry.test"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(lines)

    def raw(self) -> bytes:
        """With a body that is framed right."""
        head, body = self.head(), self.body
        if self.fields is not None and body is None:
            body = "&".join(f"{name}={value}" for name, value in self.fields).encode("latin-1", "replace")
        if self.document is not None and body is None:
            body = json.dumps(self.document).encode()
        if body is None and self.method in ("POST", "PUT", "PATCH"):
            body = b""
        if body is None:
            return f"{head}\r\n\r\n".encode("latin-1", "replace")
        if self.chunked:
            start = f"{head}\r\nTransfer-Encoding: chunked\r\n\r\n".encode("latin-1", "replace")
            middle = len(body) // 2
            pieces = [piece for piece in (body[:middle], body[middle:]) if piece]
            return start + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode("latin-1", "replace") + body

    def shot(self, kind: str = "valid") -> Shot:
        valid = kind == "valid"
        then = self.then if valid else None
        return Shot(self.raw(), kind, self.name, self.method, good=self.good if valid else (), then=then)


@dataclass(slots=True)
class Keys:
    """Credentials that are right, as headers where nothing else is said. Uploads are of the first of the writers."""

    writers: list[str]
    readers: list[str]
    logins: list[str]
    """Those of the readers that the token service takes."""
    robot: str
    """A robot's token, which may be a password."""
    id_token: str
    people: dict[str, str]
    """Passwords by names; that of ``carol`` is never guessed."""


class Grammar:
    """Makes good requests. What it makes is bounded, so that after a while the store has all of it."""

    def __init__(self, source: random.Random, keys: Keys) -> None:
        self.source = source
        self.keys = keys
        sizes = (2, 1, 17, 300, 4096, 20_000, 70_000)
        self.blobs = [random.Random(n).randbytes(sizes[n % len(sizes)]) for n in range(56)]
        self.digests = [digest_of(blob) for blob in self.blobs]
        self.sha512 = [f"sha512:{hashlib.sha512(blob).hexdigest()}" for blob in self.blobs[:7]]
        self.large = random.Random("large").randbytes(400_000)
        self._long = random.Random("long").randbytes(9 << 20)
        self.long = digest_of(self._long)
        """A blob that has checkpoints: shorter ones have none."""
        self.manifests = [self._manifest(n) for n in range(60)]
        self.uploads: list[tuple[str, str, int]] = []
        """Repository, path below it, bytes sent."""
        self.parallel: list[tuple[str, str, bytes, bool]] = []
        """Repository, session, what is to be sent, and whether it was."""
        self._makers: list[Callable[[], Draft]] = []
        weights = []
        for weight, makers in self._table():
            for maker in makers:
                self._makers.append(maker)
                weights.append(weight)
        self._weights = [sum(weights[: n + 1]) for n in range(len(weights))]

    def draft(self) -> Draft:
        return self.source.choices(self._makers, cum_weights=self._weights)[0]()

    def names(self) -> Sequence[Callable[[], Draft]]:
        """All kinds of them, once each."""
        return self._makers

    def _table(self) -> list[tuple[float, list[Callable[[], Draft]]]]:
        return [
            (0.2, [self.healthz, self.readyz, self.front, self.metrics]),
            (1, [self.base, self.catalog, self.discover, self.large_blob]),
            (2, [self.tags, self.referrers, self.token_get, self.token_post, self.mount, self.checkpoints]),
            (2, [self.delete_tag, self.delete_manifest, self.delete_blob, self.push_gone, self.push_gone_blob]),
            (3, [self.get_blob, self.head_blob, self.range_blob, self.ranges_blob, self.push_blob]),
            (3, [self.get_manifest, self.head_manifest, self.push_tag, self.push_digest, self.push_index]),
            (2, [self.begin, self.append, self.status, self.commit, self.cancel]),
            (2, [self.open, self.opened, self.urls, self.give_up]),
            (3, [self.part]),
            (1, [self.complete]),
        ]

    # What is in requests

    def repository(self) -> str:
        return self.source.choice(REPOSITORIES)

    def writer(self) -> list[tuple[str, str]]:
        return [("Authorization", self.source.choice(self.keys.writers))]

    def reader(self, repository: str) -> list[tuple[str, str]]:
        if repository.startswith("open/") and self.source.random() < 0.5:
            return []
        return [("Authorization", self.source.choice(self.keys.readers))]

    def _at(self, repository: str, *rest: str) -> list[str]:
        return ["v2", *repository.split("/"), *rest]

    def _manifest(self, number: int) -> dict[str, Any]:
        """Of an image; a third of them refer to another."""
        layers = [self.blobs[(number * 3 + step) % len(self.blobs)] for step in range(number % 4)]
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(EMPTY, "application/vnd.oci.empty.v1+json"),
            "layers": [descriptor(layer) for layer in layers],
            "annotations": {"number": str(number)},
        }
        if number % 3 == 0:
            subject = random.Random(number % 5).randbytes(20)
            document["subject"] = descriptor(subject, OCI_MANIFEST)
            document["artifactType"] = "application/vnd.example.sbom"
        return document

    def manifest(self) -> tuple[dict[str, Any], str]:
        document = self.source.choice(self.manifests)
        return document, digest_of(json.dumps(document).encode())

    def setup(self, repository: str) -> list[Draft]:
        """What the others need to be there."""
        headers = self.writer()
        pushed = [(EMPTY, digest_of(EMPTY)), *zip(self.blobs, self.digests, strict=True)]
        pushed += [(self.large, digest_of(self.large)), (self._long, self.long)]
        pushed += list(zip(self.blobs[1:7], self.sha512[1:], strict=True))
        drafts = [self._push_blob(repository, data, digest, headers) for data, digest in pushed if data]
        for number, document in enumerate(self.manifests):
            path = self._at(repository, "manifests", TAGS[number % len(TAGS)])
            content = [*headers, ("Content-Type", OCI_MANIFEST)]
            drafts.append(Draft("setup", "PUT", path, headers=content, document=document, good=(201,)))
        return drafts

    # The ground beside the API

    def healthz(self) -> Draft:
        return Draft("healthz", "GET", ["healthz"])

    def readyz(self) -> Draft:
        return Draft("readyz", "GET", ["readyz"])

    def front(self) -> Draft:
        return Draft("front", "GET", [""])

    def metrics(self) -> Draft:
        return Draft("metrics", "GET", ["metrics"])

    def base(self) -> Draft:
        return Draft("base", "GET", ["v2", ""], headers=self.writer())

    def discover(self) -> Draft:
        return Draft("discover", "GET", DISCOVER.strip("/").split("/"), headers=self.writer())

    def scope(self) -> str:
        actions = self.source.choice(("pull", "pull,push", "push,pull", "delete", "*", "pull,push,delete"))
        return f"repository:{self.repository()}:{actions}"

    def _login(self) -> tuple[str, str]:
        name = self.source.choice(("robot", "job", "carol"))
        if name == "carol":
            return "carol", self.keys.people["carol"]
        return (name, self.keys.robot) if name == "robot" else (name, self.keys.id_token)

    def token_get(self) -> Draft:
        scopes = [("scope", quote(self.scope(), safe=":/,*")) for _ in range(self.source.randrange(3))]
        query = [("service", "bucketry"), ("account", "someone"), ("client_id", "fuzz"), *scopes]
        headers = [] if self.source.random() < 0.3 else [("Authorization", self.source.choice(self.keys.logins))]
        return Draft("token.get", "GET", ["token"], query, headers)

    def token_post(self) -> Draft:
        name, password = self._login()
        fields = [
            ("grant_type", "password"),
            ("service", "bucketry"),
            ("client_id", "fuzz"),
            *(("scope", quote(self.scope())) for _ in range(self.source.randrange(3))),
            ("username", name),
            ("password", quote(password)),
        ]
        return Draft("token.post", "POST", ["token"], headers=[("Content-Type", FORM)], fields=fields)

    # Lists

    def catalog(self) -> Draft:
        return Draft("catalog", "GET", ["v2", "_catalog"], self._page("fuzz/a"), self.writer())

    def tags(self) -> Draft:
        repository = self.repository()
        path = self._at(repository, "tags", "list")
        return Draft("tags", "GET", path, self._page("t3"), self.reader(repository))

    def _page(self, last: str) -> list[tuple[str, str]]:
        query = [("n", str(self.source.choice((0, 1, 2, 5, 100)))), ("last", quote(last))]
        return self.source.sample(query, self.source.randrange(3))

    def referrers(self) -> Draft:
        repository = self.repository()
        subject = digest_of(random.Random(self.source.randrange(5)).randbytes(20))
        query = [("artifactType", "application/vnd.example.sbom")] if self.source.random() < 0.5 else []
        return Draft("referrers", "GET", self._at(repository, "referrers", subject), query, self.reader(repository))

    # Manifests

    def get_manifest(self) -> Draft:
        return self._read_manifest("GET")

    def head_manifest(self) -> Draft:
        return self._read_manifest("HEAD")

    def _read_manifest(self, method: str) -> Draft:
        repository = self.repository()
        reference = self.source.choice((self.source.choice(TAGS), self.manifest()[1]))
        headers = [*self.reader(repository), ("Accept", f"{OCI_MANIFEST}, {OCI_INDEX}")]
        return Draft(f"manifest.{method.lower()}", method, self._at(repository, "manifests", reference), [], headers)

    def push_tag(self) -> Draft:
        return self._push(self.repository(), self.source.choice(TAGS), self.manifest()[0], "manifest.put")

    def push_digest(self) -> Draft:
        document, digest = self.manifest()
        draft = self._push(self.repository(), digest, document, "manifest.put digest")
        draft.query = [("tag", tag) for tag in self.source.sample(TAGS, self.source.randrange(3))]
        return draft

    def push_index(self) -> Draft:
        entries = [
            descriptor(json.dumps(document).encode(), OCI_MANIFEST)
            for document in self.manifests[: self.source.randrange(4)]
        ]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return self._push(self.repository(), "index", document, "manifest.put index", OCI_INDEX)

    def _push(self, repository: str, reference: str, document: Any, name: str, kind: str = OCI_MANIFEST) -> Draft:
        headers = [*self.writer(), ("Content-Type", kind)]
        path = self._at(repository, "manifests", reference)
        return Draft(name, "PUT", path, headers=headers, document=document, good=(201,))

    # Blobs

    def get_blob(self) -> Draft:
        return self._read_blob("GET", "blob.get")

    def head_blob(self) -> Draft:
        return self._read_blob("HEAD", "blob.head")

    def range_blob(self) -> Draft:
        draft = self._read_blob("GET", "blob.range", 206)
        start = self.source.randrange(200)
        draft.headers.append(("Range", f"bytes={start}-{self.source.choice(('', start, start + 100))}"))
        return draft

    def ranges_blob(self) -> Draft:
        draft = self._read_blob("GET", "blob.ranges", 206)
        draft.headers.append(("Range", "bytes=0-1,5-9, 100-200,-3"))
        return draft

    def _read_blob(self, method: str, name: str, good: int = 200) -> Draft:
        repository = self.repository()
        digest = self.source.choice(self.digests if self.source.random() < 0.9 else self.sha512)
        path = self._at(repository, "blobs", digest)
        return Draft(name, method, path, [], self.reader(repository), good=(good,))

    def large_blob(self) -> Draft:
        draft = self._read_blob("GET", "blob.large", 206)
        draft.path[-1] = digest_of(self.large)
        draft.headers.append(("Range", f"bytes={self.source.randrange(390_000)}-"))
        return draft

    def push_blob(self) -> Draft:
        number = self.source.randrange(len(self.blobs))
        data, digest = self.blobs[number], self.digests[number]
        if self.source.random() < 0.05:  # Wrong deletes hit it, too.
            data, digest = self.large, digest_of(self.large)
        draft = self._push_blob(self.repository(), data, digest, self.writer())
        draft.name = "blob.post"
        return draft

    def _push_blob(self, repository: str, data: bytes, digest: str, headers: list[tuple[str, str]]) -> Draft:
        path = self._at(repository, "blobs", "uploads", "")
        content = [*headers, ("Content-Type", OCTET_STREAM)]
        return Draft("setup", "POST", path, [("digest", digest)], content, data, good=(201, 202))

    def mount(self) -> Draft:
        query = [("mount", self.source.choice(self.digests)), ("from", self.repository())]
        path = self._at(self.repository(), "blobs", "uploads", "")
        return Draft("mount", "POST", path, query, self.writer(), good=(201,))

    # What is deleted, and pushed for it

    def push_gone(self) -> Draft:
        draft = self._push(GONE, self.source.choice(TAGS), self.manifests[4], "setup")
        draft.document = {**self.manifests[4], "layers": [], "annotations": {"n": str(self.source.randrange(9))}}
        return draft

    def push_gone_blob(self) -> Draft:
        data = self.source.choice((EMPTY, *self.blobs[1:5]))
        return self._push_blob(GONE, data, digest_of(data), self.writer())

    def delete_tag(self) -> Draft:
        return self._delete("manifest.delete tag", "manifests", self.source.choice(TAGS))

    def delete_manifest(self) -> Draft:
        document = {**self.manifests[4], "layers": [], "annotations": {"n": str(self.source.randrange(9))}}
        return self._delete("manifest.delete", "manifests", digest_of(json.dumps(document).encode()))

    def delete_blob(self) -> Draft:
        return self._delete("blob.delete", "blobs", self.source.choice(self.digests[1:5]))

    def _delete(self, name: str, noun: str, reference: str) -> Draft:
        return Draft(name, "DELETE", self._at(GONE, noun, reference), headers=self.writer(), good=(202,))

    # Uploads. A session is its beginner's, so all of them are of one principal.

    def _mine(self) -> list[tuple[str, str]]:
        return [("Authorization", self.keys.writers[0])]

    def begin(self) -> Draft:
        repository = self.repository()
        path = self._at(repository, "blobs", "uploads", "")
        query = [("digest-algorithm", "sha512")] if self.source.random() < 0.2 else []
        return Draft("upload.begin", "POST", path, query, self._mine(), good=(202,), then=self._begun(repository, 0))

    def _begun(self, repository: str, size: int) -> Callable[[Reply], None]:
        def then(reply: Reply) -> None:
            location = reply.header(b"location")
            if location is not None:
                self.uploads.append((repository, urlsplit(location).path.rpartition("/")[2], size))
                del self.uploads[:-KEPT_SESSIONS]

        return then

    def _upload(self, name: str, method: str, good: int, *, ends: bool) -> tuple[Draft, int, str]:
        if not self.uploads:
            return self.begin(), -1, ""
        index = self.source.randrange(len(self.uploads))
        repository, session, sent = self.uploads.pop(index) if ends else self.uploads[index]
        path = self._at(repository, "blobs", "uploads", session)
        return Draft(name, method, path, headers=self._mine(), good=(good,)), sent, repository

    def status(self) -> Draft:
        return self._upload("upload.status", "GET", 204, ends=False)[0]

    def cancel(self) -> Draft:
        return self._upload("upload.cancel", "DELETE", 204, ends=True)[0]

    def append(self) -> Draft:
        draft, sent, repository = self._upload("upload.append", "PATCH", 202, ends=True)
        if sent < 0:
            return draft
        data = self.large[sent : sent + self.source.choice((1, 100, 5000))]
        draft.body, draft.chunked = data, self.source.random() < 0.3
        draft.headers.append(("Content-Type", OCTET_STREAM))
        if not draft.chunked and self.source.random() < 0.5:
            draft.headers.append(("Content-Range", f"{sent}-{sent + len(data) - 1}"))
        draft.then = self._begun(repository, sent + len(data))
        return draft

    def commit(self) -> Draft:
        draft, sent, _ = self._upload("upload.commit", "PUT", 201, ends=True)
        if sent < 0:
            return draft
        if sent > 1000:
            # Many of these would be blobs that nothing else has.
            draft.method, draft.name, draft.good = "DELETE", "upload.cancel", (204,)
            return draft
        draft.body = self.large[sent:1000]
        draft.query = [("digest", digest_of(self.large[:1000]))]
        return draft

    # The extension

    def open(self) -> Draft:
        repository = self.repository()
        data = self.large[: self.source.choice((1, 1000, 30_000, 300_000))]
        digest = digest_of(data)
        document = self.source.choice(({"size": len(data)}, {}, {"digest": digest, "size": len(data)}))

        def then(reply: Reply) -> None:
            opened = json.loads(reply.body)
            if opened.get("state") == "open":
                self.parallel.append((repository, opened["session"], data, False))
                del self.parallel[:-KEPT_SESSIONS]

        draft = self._extension("parallel.begin", "POST", repository, "uploads")
        draft.document, draft.then, draft.good = document, then, (200, 201)
        return draft

    def _extension(self, name: str, method: str, repository: str, *rest: str) -> Draft:
        path = self._at(repository, "_bucketry", *rest)
        headers = self._mine()
        if method == "POST":
            headers.append(("Content-Type", UPLOAD_TYPE))
        return Draft(name, method, path, headers=headers)

    def opened(self) -> Draft:
        return self._session("parallel.status", "GET", 200)

    def urls(self) -> Draft:
        draft = self._session("parallel.urls", "POST", 200, "urls")
        if draft.name == "parallel.urls":
            draft.document = {"parts": [1]}
        return draft

    def _session(self, name: str, method: str, good: int, *rest: str, sends: bool = False) -> Draft:
        """Of a session that is there. One that is not is not asked for again."""
        waiting = [each for each in self.parallel if not (sends and each[3])]
        if not waiting:
            return self.open()
        chosen = self.source.choice(waiting)
        self.parallel.remove(chosen)
        repository, session, data, sent = chosen

        def then(_: Reply) -> None:
            self.parallel.append((repository, session, data, sent or sends))
            del self.parallel[:-KEPT_SESSIONS]

        draft = self._extension(name, method, repository, "uploads", session, *rest)
        draft.then, draft.good = then, (good,)
        if sends:
            draft.body = data
            draft.headers.append(("Content-Type", OCTET_STREAM))
        return draft

    def part(self) -> Draft:
        return self._session("parallel.part", "PUT", 201, "parts", "1", sends=True)

    def complete(self) -> Draft:
        whole = [n for n, each in enumerate(self.parallel) if each[3]]
        if not whole:
            return self.part() if self.parallel else self.open()
        repository, session, data, _ = self.parallel.pop(self.source.choice(whole))
        draft = self._extension("parallel.complete", "POST", repository, "uploads", session, "complete")
        draft.document, draft.good = {"digest": digest_of(data), "size": len(data)}, (201,)
        return draft

    def give_up(self) -> Draft:
        if len(self.parallel) < KEPT_SESSIONS // 2:
            return self.part()
        repository, session, _, _ = self.parallel.pop(0)
        draft = self._extension("parallel.cancel", "DELETE", repository, "uploads", session)
        draft.good = (204,)
        return draft

    def checkpoints(self) -> Draft:
        digest = self.source.choice((digest_of(self.large), self.long, self.long))
        repository = self.source.choice(REPOSITORIES)
        path = self._at(repository, "_bucketry", "checkpoints", digest)
        return Draft("checkpoints", "GET", path, headers=self.reader(repository))


def scopes_of_all(actions: str = "*") -> str:
    """The query of a token for everything that is fuzzed."""
    names = [*REPOSITORIES, GONE]
    asked = [("scope", f"repository:{name}:{actions}") for name in names]
    return urlencode([("service", "bucketry"), *asked, ("scope", "registry:catalog:*")])
