"""Scenarios of bucketry's own client: one large layer pushed and pulled, beside skopeo and the peer registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.ground import CAP, Ground, shown
from bench.image import TAG, Image, make_image
from bench.layers import MIB, Layer
from bench.measure import watched_memory
from bench.processes import require_program
from bench.results import NO_TARGET, Row, Target
from bench.services import ACCESS_KEY, REGION, SECRET_KEY, Bucket, Registry

S5CMD_SETTINGS: Mapping[str, Sequence[str]] = {
    "its defaults": (),
    "32 parts of 8 MiB at once": ("--concurrency", "32", "--part-size", "8"),
}
"""Its defaults are 5 parts of 50 MiB at once; the other setting is as many connections as bucketry may use."""

SLOW = "2m"
"""Of each connection, where neither the S3 server nor a client is short of CPU: then connections are what counts."""

SAME = ("--parallel", "32")

REPOSITORY = "bench/image"


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both registries on one S3 server whose connections are capped, for the servers and for the clients."""

    image: Image
    peer: Registry
    bucketry: Registry
    bucket: Bucket
    scratch: Path


def parallel(ground: Ground) -> Sequence[Row]:
    """Through connections of 10 MiB/s: push and pull of one layer, verification included."""
    size = 2 * ground.scale.layer
    rates: dict[str, list[float]] = defaultdict(list)
    with ground.services.scratch("image", expected=size) as folder:
        image = make_image(folder / "layout", Layer("transfers", size))
        for _ in range(ground.scale.rounds):
            for cap, measured in ((CAP, _round), (SLOW, _slow_round)):
                with _sides(ground, image, cap) as sides:
                    for name, seconds in measured(sides):
                        rates[name].append(image.size / MIB / seconds)
                        ground.say(f"{shown(size)}, {name}: {seconds:.1f} s")
    return [*_rows(rates, shown(size)), *_slow_rows(rates, shown(size))]


def _round(sides: _Sides) -> Iterator[tuple[str, float]]:
    """What was done, and the seconds it took. Each way goes to a place of its own."""
    image, peer, ours = sides.image, sides.peer, sides.bucketry
    layout = f"oci:{image.folder}:{TAG}"
    theirs = f"docker://127.0.0.1:{peer.port}/{REPOSITORY}:{TAG}"
    over_http = f"127.0.0.1:{ours.port}/{REPOSITORY}:{TAG}"
    direct = f"s3://{sides.bucket.name}/direct//{REPOSITORY}:{TAG}"
    yield "push by skopeo to the peer", _skopeo(layout, theirs)
    for name, options in S5CMD_SETTINGS.items():
        target = f"s3://{sides.bucket.name}/s5cmd/{len(options)}"
        yield f"push by s5cmd, {name}", _s5cmd(sides, options, str(image.layer), target)
    yield "push through the server", _bucketry(sides, "push", layout, over_http)
    yield "push direct", _bucketry(sides, "push", layout, direct)
    out = sides.scratch / "pulled"
    yield "pull by skopeo from the peer", _skopeo(theirs, f"oci:{out}-skopeo:{TAG}")
    _check(image, Path(f"{out}-skopeo"))
    for name, options in S5CMD_SETTINGS.items():
        source = f"s3://{sides.bucket.name}/s5cmd/{len(options)}"
        yield f"pull by s5cmd, {name}", _s5cmd(sides, options, source, f"{out}-s5cmd")
    yield "pull through the server", _bucketry(sides, "pull", over_http, f"oci:{out}-server:{TAG}")
    _check(image, Path(f"{out}-server"))
    yield "pull direct", _bucketry(sides, "pull", direct, f"oci:{out}-direct:{TAG}")
    _check(image, Path(f"{out}-direct"))


def _slow_round(sides: _Sides) -> Iterator[tuple[str, float]]:
    """Pushes through slower connections, as many at once for each."""
    layout = f"oci:{sides.image.folder}:{TAG}"
    name, options = list(S5CMD_SETTINGS.items())[-1]
    target = f"s3://{sides.bucket.name}/s5cmd/slow"
    yield f"slow push by s5cmd, {name}", _s5cmd(sides, options, str(sides.image.layer), target)
    over_http = f"127.0.0.1:{sides.bucketry.port}/{REPOSITORY}:{TAG}"
    yield "slow push through the server", _bucketry(sides, "push", layout, over_http, *SAME)
    direct = f"s3://{sides.bucket.name}/direct//{REPOSITORY}:{TAG}"
    yield "slow push direct", _bucketry(sides, "push", layout, direct, *SAME)


def _slow_rows(rates: Mapping[str, Sequence[float]], size: str) -> list[Row]:
    name = list(S5CMD_SETTINGS)[-1]
    return [
        Row(
            f"bucketry push of {size}, 2 MiB/s a connection, 32 at once, {way}; limit: s5cmd cp, {name}",
            "MiB/s",
            rates[f"slow push by s5cmd, {name}"],
            rates[f"slow push {way}"],
            Target(ratio=0.9),
            more_is_better=True,
            note="s5cmd cp moves the same bytes and verifies nothing",
        )
        for way in ("through the server", "direct")
    ]


def _rows(rates: Mapping[str, Sequence[float]], size: str) -> list[Row]:
    rows = []
    for action, other in (("push", "to"), ("pull", "from")):
        skopeo = rates[f"{action} by skopeo {other} the peer"]
        for way in ("through the server", "direct"):
            ours, title = rates[f"{action} {way}"], f"bucketry {action} of {size}, 10 MiB/s a connection, {way}"
            rows.append(Row(f"{title}; peer: skopeo", "MiB/s", skopeo, ours, Target(ratio=6), more_is_better=True))
            for name in S5CMD_SETTINGS:
                rows.append(
                    Row(
                        f"{title}; limit: s5cmd cp, {name}",
                        "MiB/s",
                        rates[f"{action} by s5cmd, {name}"],
                        ours,
                        Target(ratio=0.9) if action == "push" else NO_TARGET,
                        more_is_better=True,
                        note="s5cmd cp moves the same bytes and verifies nothing",
                    )
                )
    return rows


def client_memory(ground: Ground) -> Sequence[Row]:
    """Peak memory of client and server while one layer of four times the large size is pushed and pulled."""
    size = 4 * ground.scale.large
    peaks: dict[str, float] = {}
    with ground.services.scratch("image", expected=size) as folder:
        image = make_image(folder / "layout", Layer("client memory", size))
        with ground.seaweed(expected=2 * size) as buckets, ExitStack() as stack:
            server = stack.enter_context(ground.services.bucketry(buckets[1]))
            scratch = stack.enter_context(ground.services.scratch("pulled", expected=size))
            sides = _Sides(image, server, server, buckets[1], scratch)
            reference = f"127.0.0.1:{server.port}/{REPOSITORY}:{TAG}"
            for action, names in (
                ("push", (f"oci:{image.folder}:{TAG}", reference)),
                ("pull", (reference, f"oci:{scratch}/pulled:{TAG}")),
            ):
                with watched_memory(server.pid) as there:
                    client = _start(_bucketry_command(action, *names), _environ(sides))
                    with watched_memory(client.pid) as here:
                        _wait(client)
                peaks[f"client, {action}"], peaks[f"server, {action}"] = here.rss / MIB, there.rss / MIB
                ground.say(f"{action} of {shown(size)}: client {here.rss / MIB:.0f} MiB, server {there.rss / MIB:.0f}")
            _check(image, scratch / "pulled")
    limits = {"client": Target(most=400), "server": Target(most=300)}
    return [
        Row(f"peak memory (RSS) of the {who}, {action} of {shown(size)}", "MiB", [], [peak], limits[who])
        for name, peak in peaks.items()
        for who, action in [name.split(", ")]
    ]


@contextmanager
def _sides(ground: Ground, image: Image, cap: str) -> Iterator[_Sides]:
    with ground.seaweed(expected=8 * image.size) as buckets, ExitStack() as stack:
        theirs, ours = (stack.enter_context(ground.services.capped(each, cap)) for each in buckets)
        scratch = stack.enter_context(ground.services.scratch("transfers", expected=4 * image.size))
        yield _Sides(
            image,
            stack.enter_context(ground.services.peer(theirs)),
            stack.enter_context(ground.services.bucketry(ours)),
            ours,
            scratch,
        )


def _check(image: Image, layout: Path) -> None:
    """Raises `RuntimeError` where the layer that was pulled is not the one that was pushed; then makes room."""
    pulled = layout / "blobs" / "sha256" / image.layer.name
    if subprocess.run(["cmp", "--silent", image.layer, pulled]).returncode != 0:
        raise RuntimeError(f"{pulled} is not what was pushed")
    shutil.rmtree(layout)


def _skopeo(source: str, target: str) -> float:
    skopeo = require_program("skopeo", "sudo .ci/tools apt")
    options = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]
    return _timed([skopeo, *options, source, target], {**os.environ})


def _s5cmd(sides: _Sides, options: Sequence[str], source: str, target: str) -> float:
    s5cmd = require_program("s5cmd", "make dev")
    command = [s5cmd, "--endpoint-url", sides.bucket.endpoint, "cp", *options, source, target]
    return _timed(command, _environ(sides))


def _bucketry(sides: _Sides, action: str, source: str, target: str, *options: str) -> float:
    return _timed(_bucketry_command(action, source, target, *options), _environ(sides))


def _bucketry_command(action: str, source: str, target: str, *options: str) -> list[str]:
    return [require_program("bucketry", "make setup"), action, "--quiet", *options, source, target]


def _environ(sides: _Sides) -> dict[str, str]:
    """Credentials for the bucket, where the client goes there itself, and a cache of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_S3": sides.bucket.endpoint,
        "XDG_CACHE_HOME": str(sides.scratch / "cache"),
    }


def _timed(command: Sequence[str], env: Mapping[str, str]) -> float:
    began = time.monotonic()
    _wait(_start(command, env))
    return time.monotonic() - began


def _start(command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait(process: subprocess.Popen[str]) -> None:
    """Raises `RuntimeError` with what the program said where it failed."""
    said, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, process.args))} failed:\n{said[-3000:]}")  # type: ignore[arg-type]
