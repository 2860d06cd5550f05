"""Scenario of ``bucketry adopt``: a tree of Docker's registry, in a folder and in a bucket, becomes a store."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.synthetic_tree import TREE, Shape, put_tree, write_tree

from bench.ground import Ground
from bench.measure import watched_memory
from bench.processes import require_program
from bench.results import NO_TARGET, Row, Target
from bench.services import ACCESS_KEY, REGION, SECRET_KEY, Bucket, environ
from bucketry.store.open import StoreOptions, open_store

MOST_MEMORY = 250
"""MiB: the same for any tree, so that one that is too large to try needs no more."""


@dataclass(frozen=True, slots=True)
class _Run:
    seconds: float
    rss: float
    """MiB."""
    report: Mapping[str, Any]


def adopt(ground: Ground) -> Sequence[Row]:
    """Once, and once more when nothing is new."""
    whole = Shape() if ground.scale.rounds > 1 else Shape(manifests=500, blobs=1000, repositories=20)
    rows = []
    with ground.services.scratch("tree") as folder:
        write_tree(folder, whole)
        rows += _rows(ground, "folder", f"file:{folder}", {}, whole)
    with ground.seaweed() as buckets:
        bucket = buckets[1]
        asyncio.run(_fill(bucket, whole))
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}
        rows += _rows(ground, "S3", f"s3://{bucket.name}/old", {**keys, "AWS_ENDPOINT_URL_S3": bucket.endpoint}, whole)
    return rows


def _rows(ground: Ground, place: str, store: str, env: Mapping[str, str], shape: Shape) -> list[Row]:
    what = f"adopt {shape.manifests:,} manifests and {shape.blobs:,} blobs on {place}"
    rows = []
    for name in ("", ", again"):
        run = _run(store, env)
        ground.say(f"{what}{name}: {run.seconds:.1f} s, {run.report['requests']:,} requests, {run.rss:.0f} MiB")
        rows += [
            Row(f"{what}{name}: time", "s", [], [run.seconds], NO_TARGET),
            Row(f"{what}{name}: requests to the store", "", [], [float(run.report["requests"])], NO_TARGET),
            Row(f"{what}{name}: peak memory (RSS)", "MiB", [], [run.rss], Target(most=MOST_MEMORY)),
        ]
        taken = 0 if name else shape.manifests
        if run.report["manifests"] != taken:
            raise RuntimeError(f"{run.report['manifests']} manifests were taken over, not {taken}")
    return rows


def _run(store: str, env: Mapping[str, str]) -> _Run:
    program = require_program("bucketry", "make setup")
    began = time.monotonic()
    command = [program, "adopt", store, "--json"]
    process = subprocess.Popen(command, env=environ(**env), stdout=subprocess.PIPE, text=True)
    with watched_memory(process.pid) as memory:
        said, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {said[-1000:]}")
    return _Run(time.monotonic() - began, memory.rss / 1024 / 1024, json.loads(said.splitlines()[-1]))


async def _fill(bucket: Bucket, shape: Shape) -> None:
    options = StoreOptions(
        endpoint=bucket.endpoint, region=REGION, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY
    )
    # Below its prefix a registry's store is not written to.
    store = open_store(f"s3://{bucket.name}/old/{TREE}", options)
    await store.start()
    try:
        await put_tree(store, shape)
    finally:
        await store.close()
