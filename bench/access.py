"""Scenario of access: the same GETs from a server without rules, and with a bearer token from one with rules."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack

from bench.client import REPOSITORY
from bench.ground import Ground
from bench.layers import Layer
from bench.measure import requests_a_second
from bench.protocol import OCI_MANIFEST, Client, Way
from bench.reads import put_manifests
from bench.results import Row
from bench.services import Registry
from bucketry.access import htpasswd_line

NAME, PASSWORD = "bench", "bench-password"
RULES = 200
"""As many as a large organisation has; those that decide come last."""


def access(ground: Ground) -> Sequence[Row]:
    """The column of the peer is bucketry without rules: the ratio is what is left of its rate."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ground.seaweed() as buckets, ExitStack() as stack:
        bucket = buckets[1]
        scratch = stack.enter_context(ground.services.scratch("access"))
        (scratch / "htpasswd").write_text(htpasswd_line(NAME, PASSWORD, salt=bytes(16)) + "\n")
        others = "".join(
            f'[[rule]]\nwho = ["robot:r{number}"]\nrepositories = ["team-{number}/**"]\nallow = ["pull"]\n'
            for number in range(RULES)
        )
        mine = f'[[rule]]\nwho = ["user:{NAME}"]\nrepositories = ["bench/**"]\nallow = ["pull", "push", "overwrite"]\n'
        (scratch / "access.toml").write_text(f'users = "htpasswd"\n{others}{mine}')
        free = stack.enter_context(ground.services.bucketry(bucket))
        layer = Layer("access", 1024 * 1024)
        put_manifests(free.port, ["latest"])
        with Client(free.port) as client:
            client.push(REPOSITORY, layer, Way.PUT)
        options = ("--access", str(scratch / "access.toml"), "--set", "access.token_life=1h")
        held = stack.enter_context(ground.services.bucketry(bucket, *options))
        authorization = f"Bearer {_token(held)}"
        asks = {
            "GET manifest by tag": (f"/v2/{REPOSITORY}/manifests/latest", OCI_MANIFEST, 200),
            "GET blob, a redirect": (f"/v2/{REPOSITORY}/blobs/{layer.digest()}", "*/*", 307),
        }
        for _ in range(ground.scale.rounds):
            for what, (path, accept, status) in asks.items():
                for who, registry, header in (("free", free, None), ("token", held, authorization)):
                    rate = requests_a_second(
                        registry.port,
                        [path],
                        accept=accept,
                        status=status,
                        seconds=ground.scale.seconds,
                        folder=scratch,
                        authorization=header,
                    )
                    rates[what, who].append(rate)
                    ground.say(f"{what}, {who}: {rate:,.0f}/s")
        return [
            Row(
                f"{what}, S3: with a bearer token and {RULES + 1} rules; peer: bucketry without rules",
                "requests/s",
                rates[what, "free"],
                rates[what, "token"],
                more_is_better=True,
            )
            for what in asks
        ]


def _token(registry: Registry) -> str:
    scope = f"repository:{REPOSITORY}:pull"
    request = urllib.request.Request(f"http://127.0.0.1:{registry.port}/token?service=bucketry&scope={scope}")
    credentials = base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
    request.add_header("Authorization", f"Basic {credentials}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["token"])
