"""Uploads: what is asked of a session, by whom, and when, and what the dicts say to it."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from tests.chaos.model import EXPIRY, PRINCIPALS, Model, Upload, algorithms, contents, replicas, repositories, uploads
from tests.unit.registry.helpers import (
    bytes_of,
    interrupted,
    placed,
    sized,
    streamed,
)

from bucketry.oci import Digest
from bucketry.oci.errors import (
    BlobUnknown,
    DigestMismatch,
    OCIError,
    RangeInvalid,
    UploadInvalid,
    UploadUnknown,
)
from bucketry.registry import BodyInterrupted, Chunk


class UploadRules(Model):
    """Sessions, by number: any replica, at any time, in any state."""

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
