"""The load of one measurement, in a process of its own: reads a job from standard input, prints its results."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bench.layers import Layer
from bench.protocol import Client, Pushed, Way

REPOSITORY = "bench/layers"


class Job(msgspec.Struct, frozen=True):
    """``layers`` (seed, size) are pushed (``way``), or pulled (``way`` is None): all at once, on a connection each.

    ``authority``: of a registry that speaks HTTPS, a file.
    """

    port: int
    layers: list[tuple[str, int]]
    way: Way | None
    authority: str | None = None


def load(job: Job) -> list[Pushed]:
    """Runs the job in another process. Raises `RuntimeError` with what the process said where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.client"],
        input=msgspec.json.encode(job),
        capture_output=True,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the client failed:\n{done.stderr.decode(errors='replace')[-3000:]}")
    return msgspec.json.decode(done.stdout, type=list[Pushed])


def push(port: int, layer: Layer, way: Way) -> Pushed:
    return load(Job(port, [(layer.seed, layer.size)], way))[0]


def push_together(port: int, layers: list[Layer], way: Way) -> list[Pushed]:
    return load(Job(port, [(layer.seed, layer.size) for layer in layers], way))


def pull(port: int, layer: Layer) -> float:
    """Seconds, until the last byte is verified."""
    return load(Job(port, [(layer.seed, layer.size)], None))[0].total


def _work(job: Job, layer: Layer) -> Pushed:
    with Client(job.port, None if job.authority is None else Path(job.authority)) as client:
        if job.way is None:
            return Pushed(client.pull(REPOSITORY, layer.digest()), 0.0)
        return client.push(REPOSITORY, layer, job.way)


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    layers = [Layer(seed, size) for seed, size in job.layers]
    for layer in layers:
        layer.digest()  # Known before the clock starts, as a client knows it.
    with ThreadPoolExecutor(len(layers)) as pool:
        results = list(pool.map(lambda layer: _work(job, layer), layers))
    sys.stdout.buffer.write(msgspec.json.encode(results))


if __name__ == "__main__":
    main()
