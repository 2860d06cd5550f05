"""The checks of the store probe: each writes, races, reads back, and says what it saw.

A check gives what it saw and what that means for the user; it raises `Found` where that is not what the
contract promises, and lets the `StoreError` of an operation that must work pass.
"""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import time

from bucketry.store.contract import (
    IF_ABSENT,
    MIN_PART,
    Condition,
    IfMatch,
    InvalidPart,
    NotFound,
    Part,
    PreconditionFailed,
    StoreError,
    Unsupported,
    UploadNotFound,
)
from bucketry.store.probe_presigned import (
    PRESIGNED_GET,
    PRESIGNED_PART,
    PRESIGNED_PUT,
    presigned_get,
    presigned_part,
    presigned_put,
)
from bucketry.store.probe_scratch import Answer, CheckFunction, Found, Scratch, Weight

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


async def _round_trip(scratch: Scratch) -> Answer:
    body = f"bucketry probe {scratch.id}".encode()
    started = time.perf_counter()
    etag = await scratch.put("round-trip", body)
    found = await scratch.store.get(scratch.key("round-trip"))
    took = time.perf_counter() - started
    if found.body != body or found.info.size != len(body):
        raise Found("broken", "other bytes were read than were written", "what is pushed could not be pulled")
    if found.info.etag != etag:
        seen = "an object has another etag than its write was answered with"
        raise Found("broken", seen, "records could not be changed by compare-and-swap")
    return f"written and read in {took * 1000:.0f} ms", "the store can be used"


_OVERWRITES = "pushes at the same moment would overwrite each other"


async def _race(scratch: Scratch, name: str, condition: Condition, round_: int) -> None:
    """Writers at once, of which exactly one must win."""
    header = "If-Match" if isinstance(condition, IfMatch) else "If-None-Match"

    async def write(body: bytes) -> bool:
        try:
            await scratch.put(name, body, condition=condition)
        except PreconditionFailed:
            return False
        return True

    bodies = [f"{scratch.id} round {round_} writer {writer}".encode() for writer in range(scratch.writers)]
    results = await asyncio.gather(*(write(body) for body in bodies), return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    won = [body for body, result in zip(bodies, results, strict=True) if result is True]
    if len(won) > 1:
        seen = f"{len(won)} of {scratch.writers} writers that raced for one key were all told they had won ({header})"
        raise Found("broken", seen, _OVERWRITES)
    # A store may throttle some of a race; only where nobody won that leaves the question open.
    for failure in failures:
        if not won or not isinstance(failure, StoreError):
            raise failure
    if not won:
        seen = f"none of {scratch.writers} writers that raced for one key won ({header})"
        raise Found("broken", seen, "pushes at the same moment would all fail")
    if await scratch.held(name) != won[0]:
        seen = f"the writer that was told it had won is not the one whose bytes are there ({header})"
        raise Found("broken", seen, _OVERWRITES)


def _races(scratch: Scratch) -> str:
    count = "a race" if scratch.rounds == 1 else f"{scratch.rounds} races"
    return f"{count} of {scratch.writers} writers"


async def _refused(scratch: Scratch, name: str, condition: Condition, what: str) -> None:
    try:
        await scratch.put(name, b"too late", condition=condition)
    except PreconditionFailed:
        return
    raise Found("broken", what, _OVERWRITES)


async def _if_absent(scratch: Scratch) -> Answer:
    for round_ in range(scratch.rounds):
        name = f"if-absent-{round_}"
        await _race(scratch, name, IF_ABSENT, round_)
        held = await scratch.held(name)
        await _refused(scratch, name, IF_ABSENT, "an object was overwritten though If-None-Match forbade it")
        if await scratch.held(name) != held:
            raise Found("broken", "a write that was refused (If-None-Match) happened", _OVERWRITES)
    return f"{_races(scratch)}, one winner each", "two pushes never overwrite each other"


async def _if_match(scratch: Scratch) -> Answer:
    etag = await scratch.put("if-match", b"the first")
    for round_ in range(scratch.rounds):
        stale = etag
        await _race(scratch, "if-match", IfMatch(stale), round_)
        etag = (await scratch.store.head(scratch.key("if-match"))).etag
        if etag == stale:
            raise Found("broken", "an object's etag stayed though its bytes changed", _OVERWRITES)
        await _refused(scratch, "if-match", IfMatch(stale), "an object was overwritten though If-Match forbade it")
    missing = "if-match-missing"
    await _refused(scratch, missing, IfMatch(etag), "a write with If-Match made an object where there was none")
    if await scratch.exists(scratch.key(missing)):
        raise Found("broken", "a write that was refused (If-Match) happened", _OVERWRITES)
    seen = f"{_races(scratch)}, one winner each; refused where there is no object"
    return seen, "records change by compare-and-swap"


_STALE = "a replica could act on what is no more; no registry can be kept there"


async def _strong_reads(scratch: Scratch) -> Answer:
    key = scratch.key("object", "strong/")
    rounds = 2 if scratch.quick else 5
    for round_ in range(rounds):
        for version in (b"first", b"second, longer"):
            body = b"%s %d" % (version, round_)
            etag = await scratch.store.put(key, body)
            got, head = await scratch.store.get(key), await scratch.store.head(key)
            if got.body != body or head.etag != etag or head.size != len(body):
                raise Found("broken", "a read after a write gave the object as it was before", _STALE)
            if await scratch.pages("strong/", 1000) != [key]:
                raise Found("broken", "a list after a write does not hold the object", _STALE)
        await scratch.store.delete(key)
        if await scratch.exists(key) or await scratch.pages("strong/", 1000):
            raise Found("broken", "a deleted object can still be seen", _STALE)
        try:
            await scratch.store.get(key)
        except NotFound:
            continue
        raise Found("broken", "a deleted object can still be read", _STALE)
    await scratch.store.delete(key)  # of one that is missing: no error
    seen = "reads and lists see every write, overwrite and delete at once"
    return seen, "any replica can answer any request"


async def _metadata(scratch: Scratch) -> Answer:
    key = scratch.key("metadata")
    metadata = {"digest": "sha256:" + "0" * 64, "subject": "a-b_c.d/e:f"}
    await scratch.store.put(key, b"{}", content_type=_MANIFEST_TYPE, metadata=metadata)
    means = "manifests could not be served as what they are"
    for info in ((await scratch.store.get(key)).info, await scratch.store.head(key)):
        if info.content_type != _MANIFEST_TYPE:
            raise Found("broken", f"a content type became {info.content_type}", means)
        if dict(info.metadata) != metadata:
            raise Found("broken", f"of the metadata of an object {dict(info.metadata)} came back", means)
    return "kept", "one read answers a pull by tag"


async def _list(scratch: Scratch) -> Answer:
    names = ["0", "A", "Z", "a", "a-b", "a.b", "a0", "a_b", "ab", "b", "v1.10", "v1.9", "z~"]
    if scratch.quick:
        names = ["B", "a", "a-b", "a0", "v1.9"]
    keys = sorted(scratch.key(name, "list/") for name in names)
    await asyncio.gather(*(scratch.store.put(key, b"") for key in keys))
    means = "lists of tags and repositories would leave some out"
    for limit in (3, 1000):
        listed = await scratch.pages("list/", limit)
        if sorted(listed) != keys:
            raise Found("broken", f"pages of {limit} do not give every key", means)
        if listed != keys:
            raise Found("broken", "names are not listed in byte order", means)
    between = keys[len(keys) // 2] + "-"
    page = await scratch.store.list("probe/list/", after=between)
    if [found.key for found in page.objects if scratch.id in found.key] != [k for k in keys if k > between]:
        raise Found("broken", "a list cannot go on after a key that does not exist", means)
    return "byte order, every key once, on pages of any size", "lists of tags come in order, page by page"


async def _list_deep(scratch: Scratch) -> Answer:
    # What is below "d/" comes after "d-…" byte by byte, and before it where folders are folders.
    keys = [scratch.key("key", f"deep/{folder}") for folder in ("d-", "d/", "d/e/", "d.e/", "d0")]
    await asyncio.gather(*(scratch.store.put(key, b"") for key in keys))
    by_one = await scratch.pages("deep/", 1)
    at_once = await scratch.pages("deep/", 1000)
    if sorted(at_once) != sorted(keys) or by_one != at_once:
        seen = "names with / are not listed in one order, once each, on pages of any size"
        raise Found("broken", seen, "some abandoned uploads could be overlooked")
    order = "byte order" if at_once == sorted(at_once) else "directory order"
    return f"{order}, the same on pages of any size", "bucketry needs no more"


async def _ranges(scratch: Scratch) -> Answer:
    body = bytes(range(256)) * 8
    key = scratch.bulk_key("ranges")
    await scratch.store.put(key, body)
    for start, stop in ((0, 1), (10, 20), (1000, None), (0, None), (len(body) - 1, len(body))):
        if await scratch.read(key, start, stop) != body[start:stop]:
            raise Found("broken", f"bytes {start} to {stop} are other ones", "pulls could not be resumed")
    return "exact", "interrupted pulls resume"


async def _delete_many(scratch: Scratch) -> Answer:
    keys = [scratch.key(name, "many/") for name in ("a", "b", "c")]
    never_was, kept = scratch.key("never-was", "many/"), scratch.key("kept", "many/")
    await asyncio.gather(*(scratch.store.put(key, b"") for key in [*keys, kept]))
    await scratch.store.delete_many([*keys, never_was])
    if await scratch.pages("many/", 1000) != [kept]:
        raise Found("broken", "not just those named are gone", "space could not be freed")
    return "those named are gone, no other", "space is freed in few requests"


async def _conditional_delete(scratch: Scratch) -> Answer:
    means = "deletes go without a condition"
    if not scratch.store.capabilities.conditional_delete:
        raise Found("missing", "not used on this store", means)
    key = scratch.key("delete")
    stale = await scratch.put("delete", b"the first")
    fresh = await scratch.put("delete", b"the second")
    try:
        await scratch.store.delete(key, condition=IfMatch(stale))
    except PreconditionFailed:
        pass
    except Unsupported as error:
        raise Found("missing", str(error), means) from error
    else:
        raise Found(
            "broken",
            "an object was deleted though it had changed (If-Match)",
            "a tag pushed at the moment it is deleted may be lost",
        )
    if not await scratch.exists(key):
        raise Found("broken", "a delete that was refused (If-Match) happened all the same", means)
    await scratch.store.delete(key, condition=IfMatch(fresh))
    if await scratch.exists(key):
        raise Found("broken", "a delete whose condition held did not happen (If-Match)", means)
    try:
        await scratch.store.delete(key, condition=IfMatch(fresh))
    except PreconditionFailed:
        return "refused where the object changed or is gone", "a delete never takes a newer push with it"
    raise Found("broken", "the delete of a missing object was not refused (If-Match)", means)


_NO_MULTIPART = "blobs larger than a part could not be pushed"


async def _multipart_small(scratch: Scratch) -> Answer:
    key = scratch.bulk_key("multipart-small")
    body = b"one small part"
    upload_id = await scratch.create_multipart(key)
    etag = await scratch.store.put_part(key, upload_id, 7, body, offset=0)
    if await scratch.exists(key):
        raise Found("broken", "an upload can be seen before it is completed", _NO_MULTIPART)
    await scratch.store.complete_multipart(key, upload_id, [Part(7, len(body), etag)])
    if await scratch.read(key) != body:
        raise Found("broken", "a completed upload has other bytes", _NO_MULTIPART)
    return "one small part under a high number", "large blobs can be pushed"


async def _multipart(scratch: Scratch) -> Answer:
    key = scratch.bulk_key("multipart")
    upload_id = await scratch.create_multipart(key)
    bodies = {2: b"2" * MIN_PART, 5: b"5" * MIN_PART, 9: b"the last part is small"}
    offsets = {2: 0, 5: MIN_PART, 9: 2 * MIN_PART}
    etags: dict[int, str] = {}

    async def put(number: int) -> None:
        etags[number] = await scratch.store.put_part(key, upload_id, number, bodies[number], offset=offsets[number])

    await put(9)
    await asyncio.gather(put(5), put(2))
    parts = [Part(number, len(body), etags[number]) for number, body in bodies.items()]
    await scratch.store.complete_multipart(key, upload_id, parts)
    whole = hashlib.sha256()
    async for piece in scratch.store.read(key):
        whole.update(piece)
    if whole.digest() != hashlib.sha256(b"".join(bodies.values())).digest():
        raise Found("broken", "a completed upload has other bytes than its parts", _NO_MULTIPART)
    if await scratch.read(key, MIN_PART - 1, MIN_PART + 1) != b"25":
        raise Found("broken", "a range across two parts has other bytes", "pulls could not be resumed")
    return "equal parts, out of order and at once, gaps in their numbers", "parts travel in parallel"


async def _complete_again(scratch: Scratch) -> Answer:
    key = scratch.bulk_key("complete-again")
    upload_id = await scratch.create_multipart(key)
    part = Part(1, 4, await scratch.store.put_part(key, upload_id, 1, b"once", offset=0))
    await scratch.store.complete_multipart(key, upload_id, [part])
    means = "a commit whose answer was lost could not be repeated"
    try:
        await scratch.store.complete_multipart(key, upload_id, [part])
    except StoreError as error:
        raise Found("broken", f"completing an upload twice failed: {error}", means) from error
    if await scratch.read(key) != b"once":
        raise Found("broken", "completing an upload twice changed its bytes", means)
    return "the second one succeeds too", "a commit whose answer was lost is repeated"


async def _stale_part(scratch: Scratch) -> Answer:
    key = scratch.bulk_key("stale-part")
    upload_id = await scratch.create_multipart(key)
    stale = Part(1, 5, await scratch.store.put_part(key, upload_id, 1, b"stale", offset=0))
    try:
        await scratch.store.put_part(key, upload_id, 1, b"fresh", offset=0)
        await scratch.store.complete_multipart(key, upload_id, [stale])
    except (InvalidPart, UploadNotFound):
        return "refused", "bucketry does not rely on it"
    seen = "completing with the etag of a part that was replaced is accepted"
    raise Found("missing", seen, "bucketry does not rely on it: it never writes a part number twice")


async def _list_parts(scratch: Scratch) -> Answer:
    key = scratch.bulk_key("list-parts")
    upload_id = await scratch.create_multipart(key)
    means = "uploads that were interrupted are sent from their beginning"
    bodies = {10_000: b"the last one", 3: b"three", 1_001: b""}
    etags = {
        number: await scratch.store.put_part(key, upload_id, number, body, offset=index * MIN_PART)
        for index, (number, body) in enumerate(bodies.items())
    }
    listed = await scratch.store.list_parts(key, upload_id)
    if list(listed) != [Part(number, len(bodies[number]), etags[number]) for number in sorted(bodies)]:
        raise Found("broken", f"other parts are listed than were put: {[part.number for part in listed]}", means)
    await scratch.store.abort_multipart(key, upload_id)
    try:
        await scratch.store.list_parts(key, upload_id)
    except UploadNotFound:
        return "those that were put, with their sizes", "uploads that were interrupted go on where they were"
    raise Found("broken", "the parts of an upload can be listed after it was aborted", means)


async def _abort(scratch: Scratch) -> Answer:
    key = scratch.bulk_key("abort")
    upload_id = await scratch.create_multipart(key)
    part = Part(1, 4, await scratch.store.put_part(key, upload_id, 1, b"gone", offset=0))
    pending = {(upload.key, upload.upload_id) for upload in await scratch.store.list_multiparts()}
    await scratch.store.abort_multipart(key, upload_id)
    await scratch.store.abort_multipart(key, upload_id)  # of one that is no more: no error
    means = "the parts of abandoned uploads cost space; give the bucket a lifecycle rule that aborts them"
    try:
        await scratch.store.complete_multipart(key, upload_id, [part])
    except (UploadNotFound, InvalidPart):
        pass
    else:
        raise Found("broken", "an upload was completed after it was aborted", means)
    if (key, upload_id) not in pending:
        raise Found("missing", "a pending upload is not listed", means)
    return "pending uploads are listed, aborted ones are gone", "abandoned uploads are cleaned up"


async def _clock(scratch: Scratch) -> Answer:
    before = scratch.clock()
    await scratch.put("clock", b"")
    after = scratch.clock()
    modified = (await scratch.store.head(scratch.key("clock"))).modified
    # S3 gives whole seconds: what was written at 10.9 is of 10.
    ahead = modified - after if modified > after else modified + 1 - before if modified + 1 < before else 0.0
    if abs(ahead) > 60:
        seen = f"the store's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        raise Found("broken", seen, "set both by NTP: signed requests fail from 15 minutes on")
    return f"within {max(1.0, abs(ahead)):.0f} s of this machine's", "signatures and ages are right"


async def _latency(scratch: Scratch) -> Answer:
    puts, gets = [], []
    for round_ in range(8):
        started = time.perf_counter()
        await scratch.put("latency", b"%d" % round_)
        puts.append(time.perf_counter() - started)
        started = time.perf_counter()
        await scratch.store.get(scratch.key("latency"))
        gets.append(time.perf_counter() - started)
    seen = f"put {statistics.median(puts) * 1000:.1f} ms, get {statistics.median(gets) * 1000:.1f} ms"
    return seen, "a small blob takes about six such requests"


CHECKS: tuple[tuple[str, Weight, bool, CheckFunction], ...] = (
    ("round trip", "must", True, _round_trip),
    ("write if absent", "must", True, _if_absent),
    ("write if unchanged", "must", True, _if_match),
    ("reads see writes", "must", True, _strong_reads),
    ("metadata", "must", True, _metadata),
    ("list", "must", True, _list),
    ("ranges", "must", True, _ranges),
    ("multipart", "must", True, _multipart_small),
    ("multipart in parallel", "must", False, _multipart),
    ("complete twice", "feature", False, _complete_again),
    ("stale part", "note", False, _stale_part),
    ("list parts", "feature", False, _list_parts),
    ("abort", "feature", False, _abort),
    ("delete many", "must", False, _delete_many),
    ("delete if unchanged", "feature", False, _conditional_delete),
    ("list below /", "note", False, _list_deep),
    (PRESIGNED_GET, "feature", False, presigned_get),
    (PRESIGNED_PART, "feature", True, presigned_part),
    (PRESIGNED_PUT, "feature", True, presigned_put),
    ("clock", "note", False, _clock),
    ("latency", "note", False, _latency),
)
"""Name, weight, whether it is one of the quick ones, and the function. `_round_trip` must be the first."""
