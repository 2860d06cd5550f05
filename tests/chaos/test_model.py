"""The registry against plain dicts: whatever is asked of whichever replica, the answer is the one the dicts give."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from tests.chaos.model import (
    ALGORITHMS,
    EXPIRY,
    HOUR,
    LEASE,
    PRINCIPALS,
    REPOSITORIES,
    TAGS,
    algorithms,
    contents,
    limits,
    manifests,
    replicas,
    repositories,
)
from tests.chaos.model_uploads import UploadRules
from tests.unit.registry.helpers import (
    PART,
    blob_bytes,
    image,
    index,
    pulled,
    truth,
)

from bucketry.oci import Digest, parse_manifest
from bucketry.oci.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
)


class RegistryModel(UploadRules):
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
