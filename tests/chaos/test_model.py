"""The registry against plain dicts: whatever is asked of whichever replica, the answer is the one the dicts give."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.registry.helpers import (
    DAY,
    PART,
    Collector,
    FakeClock,
    blob_bytes,
    bytes_of,
    image,
    index,
    interrupted,
    memory_store,
    open_registry,
    placed,
    pulled,
    sized,
    streamed,
    truth,
)

from bucketry.oci import Digest, parse_manifest
from bucketry.oci.errors import (
    BlobUnknown,
    DigestMismatch,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    OCIError,
    RangeInvalid,
    UploadInvalid,
    UploadUnknown,
)
from bucketry.registry import BodyInterrupted, Chunk, Registry

T = TypeVar("T")

HOUR = 3600.0
LEASE = HOUR
EXPIRY = 6 * HOUR
REPOSITORIES = ["a", "a/b", "team/app", "team-x"]
PRINCIPALS = ["alice", "bob"]
TAGS = ["latest", "v1", "v1.0", "V1", "_"]
ALGORITHMS = ["sha256", "sha512"]

repositories = st.sampled_from(REPOSITORIES)
replicas = st.integers(0, 1)
algorithms = st.sampled_from(ALGORITHMS)
contents = st.builds(
    blob_bytes,
    st.sampled_from([0, 1, 20, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 10]),
    st.integers(0, 2),
)
limits = st.none() | st.integers(0, 4)
# By number, and not by bundles: so every rule can run at any time, and none is starved.
uploads = st.integers(0, 3)
manifests = st.integers(0, 9)


@dataclass
class Upload:
    """A session as its client knows it."""

    session: str
    repository: str
    principal: str
    began: float
    content: bytes = b""
    continued: bool = False
    cancelled: bool = False
    committed: bool = False
    lost: bool = False
    """A commit failed after it had claimed the session: what becomes of it is the registry's affair."""


@dataclass
class Repository:
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    manifests: dict[Digest, bytes] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    known: bool = False
    """In the catalog: it had a manifest once."""


class RegistryModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.store = memory_store(self.clock)
        self.collector = Collector(self.store, self.clock)
        self.model = {name: Repository() for name in REPOSITORIES}
        self.bytes: dict[Digest, bytes] = {}
        """Every blob whose record is live or condemned: what a mount without a source finds."""
        self.created: dict[Digest, float] = {}
        self.condemned: set[Digest] = set()
        self.replicas: list[Registry] = []
        self.sessions: list[Upload] = []
        self.bodies: list[bytes] = []
        """Manifests that were pushed somewhere."""

    @initialize(native=st.tuples(st.booleans(), st.booleans()))
    def open(self, native: tuple[bool, bool]) -> None:
        self.native = native
        for number in range(2):
            self.replicas.append(self.fresh(number))
        for number in range(4):
            self.sessions.append(self.begun(REPOSITORIES[number % 3], PRINCIPALS[number % 2], number % 2, None))
        for repository in REPOSITORIES[:3]:
            for size in (0, 20, 3 * PART + 10):
                self.post(repository, 0, blob_bytes(size), "sha256")
            self.push_image(repository, 0, [blob_bytes(20)], None, "", ["latest"], "tag")

    def fresh(self, number: int, generation: int = 0) -> Registry:
        return self.run(
            open_registry(
                self.store,
                self.clock,
                replica=10 * generation + number + 1,
                native_hash=self.native[number],
                upload_expiry=EXPIRY,
                lease_renewal=LEASE,
                max_page=3,
            )
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    def teardown(self) -> None:
        try:
            if self.replicas:
                self.drain()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def drain(self) -> None:
        """Long after, when everything was swept and collected, what is left is what the model has."""
        self.clock.advance(10 * DAY)
        for registry in self.replicas:
            self.run(registry.close())
        self.run(self.replicas[0].sweeper.sweep())
        for digest in list(self.bytes):
            self.run(self.collector.collect(digest))
        found = self.run(truth(self.store))
        assert found.problems == []
        assert (found.sessions, found.multiparts) == (set(), 0)
        kept = {digest for repository in self.model.values() for digest in repository.blobs}
        assert {digest for digest in found.records if found.blob(digest) is not None} == kept

    # ---- uploads

    def published(self, repository: str, digest: Digest, content: bytes) -> None:
        self.model[repository].blobs[digest] = content
        if digest not in self.bytes:
            self.created[digest] = self.clock.now()
        self.bytes[digest] = content
        self.condemned.discard(digest)

    @rule(upload=uploads, repository=repositories, principal=st.sampled_from(PRINCIPALS), replica=replicas,
          algorithm=st.none() | algorithms)  # fmt: skip
    def begin(self, upload: int, repository: str, principal: str, replica: int, algorithm: str | None) -> None:
        """In place of another, which is abandoned where it did not end."""
        self.sessions[upload] = self.begun(repository, principal, replica, algorithm)

    def begun(self, repository: str, principal: str, replica: int, algorithm: str | None) -> Upload:
        progress = self.replicas[replica].uploads.begin(repository, principal, algorithm)
        assert progress.offset == 0
        return Upload(progress.session_id, repository, principal, self.clock.now())

    def ended(self, upload: Upload) -> bool:
        return upload.cancelled or self.clock.now() > int(upload.began) + EXPIRY

    @rule(number=uploads, replica=replicas)
    def ask(self, number: int, replica: int) -> None:
        upload = self.sessions[number]
        status = self.replicas[replica].uploads.status(
            upload.repository, upload.principal, upload.session, continued=upload.continued
        )
        if self.ended(upload):
            with pytest.raises(UploadUnknown):
                self.run(status)
        elif upload.committed or upload.lost:
            try:
                self.run(status)
            except UploadUnknown:
                pass
        else:
            assert self.run(status).offset == len(upload.content)

    @rule(number=uploads, replica=replicas, data=contents,
          form=st.sampled_from(["streamed", "sized", "placed", "interrupted", "interrupted placed"]))  # fmt: skip
    def append(self, number: int, replica: int, data: bytes, form: str) -> None:
        upload = self.sessions[number]
        if upload.committed or upload.lost:
            return
        start = len(upload.content)
        chunk = {
            "streamed": lambda: streamed(data),
            "sized": lambda: sized(data),
            "placed": lambda: placed(data, start),
            "interrupted": lambda: Chunk(interrupted(data)),
            "interrupted placed": lambda: Chunk(interrupted(data), len(data) + 1000, start),
        }[form]()
        work = self.replicas[replica].uploads.append(
            upload.repository, upload.principal, upload.session, chunk, continued=upload.continued
        )
        if self.ended(upload):
            with pytest.raises(UploadUnknown):
                self.run(work)
            return
        if "interrupted" in form:
            with pytest.raises(BodyInterrupted):
                self.run(work)
        else:
            progress = self.run(work)
            assert progress.offset == start + len(data)
        upload.content += data
        upload.continued = upload.continued or bool(data)

    @rule(number=uploads, replica=replicas, data=contents, off=st.sampled_from([-1, 1, 50]))
    def append_out_of_order(self, number: int, replica: int, data: bytes, off: int) -> None:
        upload = self.sessions[number]
        start = len(upload.content) + off
        if upload.committed or upload.lost or start < 0 or not upload.content:
            return
        work = self.replicas[replica].uploads.append(
            upload.repository, upload.principal, upload.session, placed(data, start), continued=upload.continued
        )
        if self.ended(upload):
            with pytest.raises(UploadUnknown):
                self.run(work)
        else:
            with pytest.raises(RangeInvalid) as caught:
                self.run(work)
            assert caught.value.offset == len(upload.content)

    @rule(number=uploads, replica=replicas, data=contents, continued=st.booleans())
    def replay_the_first_chunk(self, number: int, replica: int, data: bytes, continued: bool) -> None:
        upload = self.sessions[number]
        if upload.committed or upload.lost or not upload.content or not data:
            return
        work = self.replicas[replica].uploads.append(
            upload.repository, upload.principal, upload.session, placed(data, 0), continued=continued
        )
        with pytest.raises(UploadUnknown if self.ended(upload) else RangeInvalid):
            self.run(work)

    @rule(number=uploads, replica=replicas, algorithm=algorithms, last=st.none() | contents)
    def commit(self, number: int, replica: int, algorithm: str, last: bytes | None) -> None:
        upload = self.sessions[number]
        content = upload.content + (last or b"")
        digest = Digest.of(content, algorithm)
        chunk = None if not last else placed(last, len(upload.content)) if upload.content else sized(last)
        work = self.replicas[replica].uploads.commit(
            upload.repository, upload.principal, upload.session, digest, chunk, continued=upload.continued
        )
        if self.ended(upload):
            with pytest.raises(UploadUnknown):
                self.run(work)
            return
        if upload.committed or upload.lost:
            # Asked again: the same blob, another of the same session, or no such upload; never other bytes.
            try:
                blob = self.run(work)
            except (UploadUnknown, UploadInvalid, DigestMismatch, RangeInvalid, BlobUnknown):
                return
        else:
            blob = self.run(work)
        assert blob.digest == digest
        assert blob.size == len(content)
        assert self.run(bytes_of(self.replicas[1 - replica], blob)) == content
        upload.committed = True
        self.published(upload.repository, digest, content)

    @rule(number=uploads, replica=replicas, algorithm=algorithms, last=st.none() | contents)
    def commit_other_bytes(self, number: int, replica: int, algorithm: str, last: bytes | None) -> None:
        upload = self.sessions[number]
        digest = Digest.of(b"other bytes", algorithm)
        chunk = None if not last else placed(last, len(upload.content)) if upload.content else sized(last)
        work = self.replicas[replica].uploads.commit(
            upload.repository, upload.principal, upload.session, digest, chunk, continued=upload.continued
        )
        if upload.committed or upload.lost:
            with pytest.raises(OCIError):
                self.run(work)
            return
        with pytest.raises(UploadUnknown if self.ended(upload) else DigestMismatch):
            self.run(work)
        if self.ended(upload):
            return
        # It stays as it was, unless its bytes had to be read back: then it is gone.
        try:
            progress = self.run(
                self.replicas[replica].uploads.status(
                    upload.repository, upload.principal, upload.session, continued=upload.continued
                )
            )
        except UploadUnknown:
            upload.lost = True
        else:
            assert progress.offset == len(upload.content)

    @rule(number=uploads, replica=replicas)
    def cancel(self, number: int, replica: int) -> None:
        upload = self.sessions[number]
        work = self.replicas[replica].uploads.cancel(upload.repository, upload.principal, upload.session)
        if self.ended(upload):
            with pytest.raises(UploadUnknown):
                self.run(work)
        elif upload.committed or upload.lost:
            try:
                self.run(work)
            except (UploadUnknown, UploadInvalid):
                pass
            upload.lost = True
        else:
            self.run(work)
            upload.cancelled = True

    @rule(number=uploads, replica=replicas, repository=repositories, principal=st.sampled_from(PRINCIPALS))
    def intrude(self, number: int, replica: int, repository: str, principal: str) -> None:
        """Anyone else, or from another repository."""
        upload = self.sessions[number]
        if (repository, principal) == (upload.repository, upload.principal):
            return
        uploads = self.replicas[replica].uploads
        with pytest.raises(UploadUnknown):
            self.run(uploads.status(repository, principal, upload.session))
        with pytest.raises(UploadUnknown):
            self.run(uploads.append(repository, principal, upload.session, streamed(b"x"), continued=True))
        digest = Digest.of(upload.content)
        with pytest.raises(UploadUnknown):
            self.run(uploads.commit(repository, principal, upload.session, digest, None, continued=True))

    @rule(repository=repositories, replica=replicas, data=contents, algorithm=algorithms)
    def post(self, repository: str, replica: int, data: bytes, algorithm: str) -> None:
        digest = Digest.of(data, algorithm)
        self.run(self.replicas[replica].uploads.push(repository, digest, sized(data)))
        self.published(repository, digest, data)

    @rule(repository=repositories, replica=replicas, data=contents, algorithm=algorithms)
    def post_other_bytes(self, repository: str, replica: int, data: bytes, algorithm: str) -> None:
        with pytest.raises(DigestMismatch):
            self.run(self.replicas[replica].uploads.push(repository, Digest.of(b"other bytes", algorithm), sized(data)))

    # ---- blobs

    @rule(repository=repositories, replica=replicas, data=contents, algorithm=algorithms)
    def head(self, repository: str, replica: int, data: bytes, algorithm: str) -> None:
        digest = Digest.of(data, algorithm)
        work = self.replicas[replica].blobs.stat(repository, digest)
        if digest not in self.model[repository].blobs:
            with pytest.raises(BlobUnknown):
                self.run(work)
            return
        assert self.run(work).size == len(data)
        self.condemned.discard(digest)
        link = self.run(self.store.head(f"repos/{repository}/~blobs/{algorithm}/{digest.hex}"))
        assert self.clock.now() - link.modified < LEASE

    @rule(repository=repositories, replica=replicas, data=contents, algorithm=algorithms)
    def get(self, repository: str, replica: int, data: bytes, algorithm: str) -> None:
        digest = Digest.of(data, algorithm)
        if digest in self.model[repository].blobs:
            assert self.run(pulled(self.replicas[replica], repository, digest)) == data
        else:
            with pytest.raises(BlobUnknown):
                self.run(self.replicas[replica].blobs.find(repository, digest))

    @rule(repository=repositories, replica=replicas, data=contents, algorithm=algorithms,
          source=st.none() | repositories)  # fmt: skip
    def mount(self, repository: str, replica: int, data: bytes, algorithm: str, source: str | None) -> None:
        digest = Digest.of(data, algorithm)
        blob = self.run(self.replicas[replica].blobs.mount(repository, digest, source))
        there = digest in (self.bytes if source is None else self.model[source].blobs)
        assert (blob is not None) == there
        if there:
            self.published(repository, digest, data)

    @rule(repository=repositories, replica=replicas, data=contents, algorithm=algorithms)
    def delete_blob(self, repository: str, replica: int, data: bytes, algorithm: str) -> None:
        digest = Digest.of(data, algorithm)
        work = self.replicas[replica].blobs.delete(repository, digest)
        if self.model[repository].blobs.pop(digest, None) is None:
            with pytest.raises(BlobUnknown):
                self.run(work)
        else:
            self.run(work)

    # ---- manifests

    @rule(repository=repositories, replica=replicas, blobs=st.lists(contents, min_size=1, max_size=3),
          subject=st.none() | manifests, kind=st.sampled_from(["", "application/x", "application/y"]),
          tags=st.lists(st.sampled_from(TAGS), max_size=2), by=st.sampled_from(["tag", *ALGORITHMS]))  # fmt: skip
    def push_image(
        self,
        repository: str,
        replica: int,
        blobs: list[bytes],
        subject: int | None,
        kind: str,
        tags: list[str],
        by: str,
    ) -> None:
        body = image(*blobs, subject=None if subject is None else self.body(subject), artifactType=kind)
        missing = any(Digest.of(blob) not in self.model[repository].blobs for blob in blobs)
        self.push(repository, replica, body, tags, by, missing=missing)

    @rule(repository=repositories, replica=replicas, children=st.lists(manifests, max_size=2),
          subject=st.none() | manifests, tags=st.lists(st.sampled_from(TAGS), max_size=2),
          by=st.sampled_from(["tag", *ALGORITHMS]))  # fmt: skip
    def push_index(
        self, repository: str, replica: int, children: list[int], subject: int | None, tags: list[str], by: str
    ) -> None:
        found = [self.body(child) for child in children]
        body = index(*found, subject=None if subject is None else self.body(subject))
        missing = any(Digest.of(child) not in self.model[repository].manifests for child in found)
        self.push(repository, replica, body, tags, by, missing=missing)

    def push(self, repository: str, replica: int, body: bytes, tags: list[str], by: str, *, missing: bool) -> None:
        digest = Digest.of(body, "sha256" if by == "tag" else by)
        reference = (tags or ["latest"])[0] if by == "tag" else digest
        names = [reference, *tags[1:]] if isinstance(reference, str) else tags
        work = self.replicas[replica].manifests.push(
            repository, reference, body, None, tags=tags[1:] if isinstance(reference, str) else tags
        )
        model = self.model[repository]
        if missing:
            with pytest.raises(ManifestBlobUnknown):
                self.run(work)
            return
        pushed = self.run(work)
        assert pushed.digest == digest
        assert pushed.tags == tuple(dict.fromkeys(names))
        model.manifests[digest] = body
        model.tags |= dict.fromkeys(names, digest)
        model.known = True
        for blob in parse_manifest(body, None).blobs():
            self.condemned.discard(blob.parsed)
        self.bodies.append(body)

    def body(self, number: int) -> bytes:
        """One of the last that were pushed."""
        return self.bodies[-1 - number % len(self.bodies)]

    @rule(repository=repositories, replica=replicas, tag=st.sampled_from(TAGS))
    def get_tag(self, repository: str, replica: int, tag: str) -> None:
        model = self.model[repository]
        work = self.replicas[replica].manifests.get(repository, tag)
        if tag not in model.tags:
            with pytest.raises(ManifestUnknown):
                self.run(work)
            return
        found = self.run(work)
        assert (found.digest, found.body) == (model.tags[tag], model.manifests[model.tags[tag]])

    @rule(repository=repositories, replica=replicas, number=manifests, algorithm=algorithms)
    def get_manifest(self, repository: str, replica: int, number: int, algorithm: str) -> None:
        body = self.body(number)
        digest = Digest.of(body, algorithm)
        work = self.replicas[replica].manifests.get(repository, digest)
        if digest in self.model[repository].manifests:
            assert self.run(work).body == body
        else:
            with pytest.raises(ManifestUnknown):
                self.run(work)

    @rule(repository=repositories, replica=replicas, number=manifests, algorithm=algorithms)
    def delete_manifest(self, repository: str, replica: int, number: int, algorithm: str) -> None:
        body = self.body(number)
        digest = Digest.of(body, algorithm)
        model = self.model[repository]
        work = self.replicas[replica].manifests.delete(repository, digest)
        if model.manifests.pop(digest, None) is None:
            with pytest.raises(ManifestUnknown):
                self.run(work)
            return
        self.run(work)
        model.tags = {tag: target for tag, target in model.tags.items() if target != digest}

    @rule(repository=repositories, replica=replicas, tag=st.sampled_from(TAGS))
    def delete_tag(self, repository: str, replica: int, tag: str) -> None:
        work = self.replicas[replica].manifests.delete(repository, tag)
        if self.model[repository].tags.pop(tag, None) is None:
            with pytest.raises(ManifestUnknown):
                self.run(work)
        else:
            self.run(work)

    # ---- lists

    @rule(repository=repositories, replica=replicas, limit=limits, last=st.none() | st.sampled_from([*TAGS, "m"]))
    def list_tags(self, repository: str, replica: int, limit: int | None, last: str | None) -> None:
        model = self.model[repository]
        work = self.replicas[replica].listing.tags(repository, limit=limit, after=last)
        names = sorted(tag for tag in model.tags if last is None or tag > last)
        if not names and not model.known:
            with pytest.raises(NameUnknown):
                self.run(work)
            return
        self.check_page(self.run(work), names, limit)

    @rule(replica=replicas, limit=limits, last=st.none() | st.sampled_from([*REPOSITORIES, "b"]))
    def list_repositories(self, replica: int, limit: int | None, last: str | None) -> None:
        names = sorted(name for name, model in self.model.items() if model.known and (last is None or name > last))
        self.check_page(self.run(self.replicas[replica].listing.repositories(limit=limit, after=last)), names, limit)

    def check_page(self, page: Any, names: list[str], limit: int | None) -> None:
        most = min(3, 3 if limit is None else limit)
        assert list(page.names) == names[:most]
        assert page.more == (len(names) > most > 0)

    @rule(repository=repositories, replica=replicas, number=manifests, limit=limits,
          kind=st.none() | st.sampled_from(["application/x", "application/y"]))  # fmt: skip
    def list_referrers(self, repository: str, replica: int, number: int, limit: int | None, kind: str | None) -> None:
        subject = self.body(number)
        wanted = []
        for digest, body in self.model[repository].manifests.items():
            manifest = parse_manifest(body, None)
            if manifest.subject is not None and manifest.subject.parsed == Digest.of(subject):
                entry = manifest.referrer(digest, len(body))
                if kind in (None, entry.artifact_type):
                    wanted.append(digest)
        found: list[Digest] = []
        after: Digest | None = None
        for _ in range(100):
            page = self.run(
                self.replicas[replica].referrers.page(
                    repository, Digest.of(subject), artifact_type=kind, limit=limit, after=after
                )
            )
            assert len(page.descriptors) <= min(3, 3 if limit is None else limit)
            found += [entry.parsed for entry in page.descriptors]
            after = page.last
            if after is None:
                break
        assert found == ([] if limit == 0 else sorted(wanted))

    # ---- time, the collector, the life of processes

    @rule(seconds=st.sampled_from([60.0, HOUR, 2.5 * HOUR, EXPIRY + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(data=contents, algorithm=algorithms)
    def condemn(self, data: bytes, algorithm: str) -> None:
        digest = Digest.of(data, algorithm)
        if self.run(self.collector.condemn(digest)) is not None:
            self.condemned.add(digest)

    @precondition(lambda self: self.condemned)
    @rule()
    def finish_what_is_condemned(self) -> None:
        for digest in sorted(self.condemned):
            linked = any(digest in model.blobs for model in self.model.values())
            assert self.run(self.collector.finish(digest)) == (not linked)
            if not linked:
                del self.bytes[digest]
        self.condemned.clear()

    @rule(repository=repositories, data=contents, algorithm=algorithms)
    def a_lease_ends(self, repository: str, data: bytes, algorithm: str) -> None:
        digest = Digest.of(data, algorithm)
        if self.run(self.collector.expire(repository, digest)):
            needed = [
                blob.parsed
                for body in self.model[repository].manifests.values()
                for blob in parse_manifest(body, None).references()
            ]
            assert digest not in needed
            del self.model[repository].blobs[digest]

    @rule(replica=replicas)
    def flush(self, replica: int) -> None:
        self.run(self.replicas[replica].ended.flush())

    @rule(replica=replicas)
    def sweep(self, replica: int) -> None:
        self.run(self.replicas[replica].sweeper.sweep())

    generation = 0

    @rule(replica=replicas)
    def restart(self, replica: int) -> None:
        """The process was killed, and what it had not flushed is forgotten."""
        self.generation += 1
        self.replicas[replica] = self.fresh(replica, self.generation)

    @invariant()
    def the_store_holds_what_was_acknowledged(self) -> None:
        if not self.replicas:
            return
        found = self.run(truth(self.store))
        assert found.problems == []
        assert set(found.links) == {(name, digest) for name, model in self.model.items() for digest in model.blobs}
        assert found.manifests == {
            (name, digest): body for name, model in self.model.items() for digest, body in model.manifests.items()
        }
        assert found.tags == {
            (name, tag): digest for name, model in self.model.items() for tag, digest in model.tags.items()
        }
        assert {digest for digest in found.records if found.blob(digest) is not None} == set(self.bytes)
        for registry in self.replicas:
            assert registry.uploads.budget.used == 0


TestRegistry = RegistryModel.TestCase
TestRegistry.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
