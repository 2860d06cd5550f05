"""A process of its own on a local store. Each line it prints was acknowledged by the store before.

``python local_worker.py MODE ROOT NAME ARGUMENT``:

- ``count``: adds ARGUMENT to ``counter``, one by one, by compare-and-swap;
- ``create``: tries to create ``race/0`` to ``race/ARGUMENT``, and prints what it won;
- ``lock``: takes and releases a lock ARGUMENT times, and prints the turns;
- ``parts``: puts part ARGUMENT at offset 0 of the upload NAME until it is superseded or complete;
- ``write``: writes until it is killed: objects, replacements, deletions, multipart uploads.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import sys

from bucketry.store.contract import (
    IF_ABSENT,
    MIN_PART,
    IfMatch,
    InvalidPart,
    Part,
    PreconditionFailed,
    UploadNotFound,
)
from bucketry.store.local import LocalStore

PART = 64 * 1024


def whole(name: str, seed: int) -> bytes:
    """A body of any size up to some hundred KiB that can be recognised as whole."""
    body = f"{name} {seed}\n".encode() * random.Random(seed).choice([1, 50, 3000, 9000])
    return hashlib.sha256(body).hexdigest().encode() + body


def is_whole(body: bytes) -> bool:
    return hashlib.sha256(body[64:]).hexdigest().encode() == body[:64]


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def count(store: LocalStore, name: str, times: int) -> None:
    done = 0
    while done < times:
        found = await store.get("counter")
        body = f"{int(found.body.split()[0]) + 1} {name} {done}".encode()
        try:
            await store.put("counter", body, condition=IfMatch(found.info.etag))
        except PreconditionFailed:
            continue
        done += 1


async def create(store: LocalStore, name: str, rounds: int) -> None:
    for round_ in range(rounds):
        try:
            await store.put(f"race/{round_}", name.encode(), condition=IF_ABSENT)
        except PreconditionFailed:
            continue
        say(round_)


async def lock(store: LocalStore, name: str, turns: int) -> None:
    for turn in range(turns):
        while True:
            try:
                etag = await store.put("lock", f"{name} {turn}".encode(), condition=IF_ABSENT)
                break
            except PreconditionFailed:
                await asyncio.sleep(0.0005)
        # Not atomic on purpose: only the lock makes the sum right.
        value = int((await store.get("sum")).body)
        await store.put("sum", str(value + 1).encode())
        await store.delete("lock", condition=IfMatch(etag))


async def parts(store: LocalStore, upload_id: str, number: int) -> None:
    body = bytes([number]) * PART
    while True:
        try:
            say(await store.put_part("data/raced", upload_id, number, body, offset=0))
        except (InvalidPart, UploadNotFound) as error:
            say(type(error).__name__)
            return


async def write(store: LocalStore, name: str, seed: int) -> None:
    for step in itertools.count(seed):
        key = f"objects/{step % 40}"
        body = whole(key, step)
        await store.put(key, body)
        say("put", key, step)
        await store.put(f"once/{name}/{step}", whole("once", step), condition=IF_ABSENT)
        say("put", f"once/{name}/{step}", step)
        if step % 5 == 4:
            await store.delete(f"once/{name}/{step - 1}")
            say("delete", f"once/{name}/{step - 1}", step)
        bulk = f"data/{name}-{step}"
        upload_id = await store.create_multipart(bulk, part_size=PART)
        body = whole(bulk, step)
        pieces = [body[at : at + PART] for at in range(0, len(body), PART)]
        etags = await asyncio.gather(
            *(
                store.put_part(bulk, upload_id, index + 1, piece, offset=index * PART)
                for index, piece in enumerate(pieces)
            )
        )
        named = [Part(index + 1, len(pieces[index]), etag) for index, etag in enumerate(etags)]
        await store.complete_multipart(bulk, upload_id, named)
        say("put", bulk, step)


async def main(mode: str, root: str, name: str, argument: int) -> None:
    # Flushing matters when the power goes; a killed process loses nothing of what the kernel has.
    store = LocalStore(root, fsync=mode == "write", min_part=min(PART, MIN_PART))
    await store.start()
    say("ready")
    sys.stdin.readline()
    modes = {"count": count, "create": create, "lock": lock, "parts": parts, "write": write}
    await modes[mode](store, name, argument)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
