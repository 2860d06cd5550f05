"""Every request there is on a repository, the action that it needs, and what must come of it by the oracle."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.spec.access_oracle import Credentials, Oracle
from tests.spec.access_world import BLOB, FIXED, MANIFEST, NEW, ONLY_IN, OTHER_BLOB, REFERRER, UPLOADED, World
from tests.support.images import OCI_MANIFEST, digest_of


@dataclass(frozen=True)
class Case:
    """A request on a repository. ``needs``: the action. ``good``: the statuses where it is let through.

    ``moves``: it would move these tags that are there, ``deletes``: it would delete these.
    """

    label: str
    method: str
    target: str
    needs: str
    good: tuple[int, ...]
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    moves: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    mounts: str | None = None
    """A repository that has the blob; ``*``: whichever has it."""


def reads(name: str) -> Iterator[Case]:
    manifest, absent = digest_of(MANIFEST), "sha256:" + "0" * 64
    for reference, good in (("edge", 200), ("v1", 200), (manifest, 200), ("none", 404), (absent, 404)):
        for method in ("GET", "HEAD"):
            yield Case(f"{method} manifest {reference}", method, f"/v2/{name}/manifests/{reference}", "pull", (good,))
    for digest, good in ((digest_of(BLOB), 200), (absent, 404)):
        for method in ("GET", "HEAD"):
            yield Case(f"{method} blob {digest}", method, f"/v2/{name}/blobs/{digest}", "pull", (good,))
        yield Case(f"checkpoints {digest}", "GET", f"/v2/{name}/_bucketry/checkpoints/{digest}", "pull", (404,))
    yield Case(
        "blob by its etag",
        "GET",
        f"/v2/{name}/blobs/{digest_of(BLOB)}",
        "pull",
        (304,),
        headers={"if-none-match": "*"},
    )
    yield Case(
        "part of a blob", "GET", f"/v2/{name}/blobs/{digest_of(BLOB)}", "pull", (206,), headers={"range": "bytes=0-9"}
    )
    for query in ("", "?n=1", "?n=0", "?last=edge"):
        yield Case(f"tags {query}", "GET", f"/v2/{name}/tags/list{query}", "pull", (200,))
    for query in ("", "?artifactType=x"):
        yield Case(f"referrers {query}", "GET", f"/v2/{name}/referrers/{manifest}{query}", "pull", (200,))
    yield Case("bad digest", "GET", f"/v2/{name}/blobs/sha256:x", "pull", (400,))


TYPE = {"content-type": OCI_MANIFEST}


def pushes(name: str) -> Iterator[Case]:
    def manifest(label: str, reference: str, body: bytes, *moves: str, good: int = 201) -> Case:
        target = f"/v2/{name}/manifests/{reference}"
        return Case(f"PUT manifest {label}", "PUT", target, "push", (good,), body, TYPE, moves=moves)

    new, old = digest_of(NEW), digest_of(MANIFEST)
    yield manifest("by digest", new, NEW)
    yield manifest("by digest again", old, MANIFEST)
    yield manifest("new tag", "fresh", NEW)
    yield manifest("new latest", "latest", NEW)
    yield manifest("new immutable tag", "v2", NEW)
    yield manifest("same tag", "edge", MANIFEST)
    yield manifest("same immutable tag", "v1", FIXED)
    yield manifest("other tag", "edge", NEW, "edge")
    yield manifest("other immutable tag", "v1", NEW, "v1")
    yield manifest("?tag= new", f"{new}?tag=fresh", NEW)
    yield manifest("?tag= moved", f"{new}?tag=edge", NEW, "edge")
    yield manifest("?tag= same", f"{old}?tag=same&tag=edge", MANIFEST)
    yield manifest("?tag= new and moved", f"{new}?tag=fresh&tag=edge", NEW, "edge")
    yield manifest("?tag= new and immutable", f"{new}?tag=fresh&tag=v1", NEW, "v1")
    yield manifest("?tag= escaped", f"{new}?t%61g=%65dge", NEW, "edge")
    yield manifest("referrer", digest_of(REFERRER), REFERRER)
    yield manifest("that is none", "fresh", b"{}", good=400)
    uploads = f"/v2/{name}/blobs/uploads/"
    digest, octets = digest_of(UPLOADED), {"content-type": "application/octet-stream"}
    yield Case("begin", "POST", uploads, "push", (202,))
    yield Case("begin without the slash", "POST", uploads.rstrip("/"), "push", (202,))
    yield Case("whole", "POST", f"{uploads}?digest={digest}", "push", (201,), UPLOADED, octets)
    yield Case("begin parts", "POST", f"/v2/{name}/_bucketry/uploads", "push", (201,), b"{}")
    own = json.dumps({"digest": digest_of(ONLY_IN[name]) if name in ONLY_IN else digest, "size": 180}).encode()
    good = 200 if name in ONLY_IN else 201
    yield Case("begin parts of what is there", "POST", f"/v2/{name}/_bucketry/uploads", "push", (good,), own)


def mounts(name: str) -> Iterator[Case]:
    uploads = f"/v2/{name}/blobs/uploads/"
    for source, data in ONLY_IN.items():
        if source == name:
            continue
        digest = digest_of(data)
        yield Case(
            f"mount from {source}",
            "POST",
            f"{uploads}?mount={digest}&from={source}",
            "push",
            (201,),
            mounts=source,
        )
        yield Case(f"mount what is in {source}", "POST", f"{uploads}?mount={digest}", "push", (201,), mounts="*")
        begin = json.dumps({"digest": digest, "size": len(data)}).encode()
        target = f"/v2/{name}/_bucketry/uploads"
        yield Case(f"begin parts of what is in {source}", "POST", target, "push", (200,), begin, mounts="*")
    yield Case("mount nothing", "POST", f"{uploads}?mount={'sha256:' + '0' * 64}&from=solo", "push", (202,))


def deletes(name: str) -> Iterator[Case]:
    for label, reference, tags in (
        ("tag", "edge", ("edge",)),
        ("immutable tag", "v1", ("v1",)),
        ("by digest", digest_of(MANIFEST), ("edge", "same")),
        ("by digest of an immutable tag", digest_of(FIXED), ("v1",)),
        ("referrer", digest_of(REFERRER), ()),
    ):
        yield Case(f"DELETE {label}", "DELETE", f"/v2/{name}/manifests/{reference}", "delete", (202,), deletes=tags)
    yield Case("DELETE absent", "DELETE", f"/v2/{name}/manifests/none", "delete", (404,))
    yield Case("DELETE blob", "DELETE", f"/v2/{name}/blobs/{digest_of(OTHER_BLOB)}", "delete", (202,))


STREAMS: tuple[tuple[str, str, bytes, int], ...] = (
    ("GET", "", b"", 204),
    ("PATCH", "", UPLOADED, 202),
    ("PUT", f"?digest={digest_of(UPLOADED)}", UPLOADED, 201),
    ("DELETE", "", b"", 204),
)
PARALLELS: tuple[tuple[str, str, bytes, int], ...] = (
    ("GET", "", b"", 200),
    ("POST", "/urls", b'{"parts": [1]}', 200),
    ("PUT", "/parts/1", UPLOADED, 201),
    ("POST", "/complete", json.dumps({"digest": digest_of(UPLOADED), "size": len(UPLOADED)}).encode(), 400),
    ("DELETE", "", b"", 204),
)


async def sessions(found: World, name: str, owner: str, own: bool) -> AsyncIterator[Case]:
    """Those of an upload that ``owner`` began in the repository when that was allowed."""
    registry = found.app.lifetime._registry
    assert registry is not None
    whose = "own" if own else "another's"
    for method, rest, body, good in STREAMS:
        session = registry.uploads.begin(name, owner).session_id
        target = f"/v2/{name}/blobs/uploads/{session}{rest}"
        yield Case(f"{method} {whose} upload", method, target, "push", (good if own else 404,), body)
    for method, rest, body, good in PARALLELS:
        opened = await registry.parallel.begin(name, owner, size=len(UPLOADED))
        target = f"/v2/{name}/_bucketry/uploads/{opened.session_id}{rest}"  # type: ignore[union-attr]
        yield Case(f"{method} {whose} parts{rest}", method, target, "push", (good if own else 404,), body)


def expected(oracle: Oracle, credentials: Credentials, case: Case, name: str) -> tuple[tuple[int, ...], str | None]:
    """Statuses, and the code of the error where the door, or a guard, is what refuses."""
    who = credentials.who
    if not oracle.may(who, case.needs, name):
        if not credentials.authenticated:
            return (401,), "UNAUTHORIZED"
        return ((404,), "NAME_UNKNOWN") if case.needs == "pull" else ((403,), "DENIED")
    if not credentials.covers(case.needs, name):
        return (401,), "UNAUTHORIZED"
    for tag in case.moves:
        movable = oracle.may(who, "overwrite", name) and credentials.covers("overwrite", name)
        if oracle.immutable(name, tag) or not movable:
            return (403,), "DENIED"
    if any(oracle.immutable(name, tag) for tag in case.deletes):
        return (403,), "DENIED"
    if case.mounts is not None:
        # A token that was asked for by names is for these, and for no more.
        may = (
            oracle.may(who, "pull", None) and credentials.scopes is None
            if case.mounts == "*"
            else oracle.may(who, "pull", case.mounts) and credentials.covers("pull", case.mounts)
        )
        if not may:
            return ((202,) if "blobs/uploads" in case.target else (201,)), None
    return case.good, None


FAMILIES: dict[str, Callable[[str], Iterator[Case]]] = {
    "reads": reads,
    "pushes": pushes,
    "mounts": mounts,
    "deletes": deletes,
}
