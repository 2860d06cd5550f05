"""What is measured: each scenario starts what it needs, takes peer and bucketry in turn, and gives its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench import access, adopting, blobs, reads, tls, transfers
from bench.ground import FULL, QUICK, Ground, Scale
from bench.results import Row

__all__ = ["FULL", "QUICK", "SCENARIOS", "Ground", "Scale", "Scenario"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """``run`` gives rows; ``about`` says in a line what they tell."""

    about: str
    run: Callable[[Ground], Sequence[Row]]


SCENARIOS: Mapping[str, Scenario] = {
    "capped": Scenario("a layer pushed to a store of 10 MiB/s a connection", blobs.capped),
    "large": Scenario("a large layer pushed to S3: the time of its commit, CPU of the server", blobs.large),
    "folder": Scenario("the same to a folder", blobs.folder),
    "memory": Scenario("peak memory of the server with eight pushes at once", blobs.memory),
    "calls": Scenario("requests to the store that a blob costs", blobs.calls),
    "manifests": Scenario("GETs of manifests by tag, a second", reads.manifests),
    "redirects": Scenario("GETs of blobs answered by a redirect, a second", reads.redirects),
    "pull": Scenario("a layer pulled, redirects followed, its bytes verified", reads.pull_layer),
    "parallel": Scenario("a layer pushed and pulled by bucketry's client, beside skopeo and s5cmd", transfers.parallel),
    "client": Scenario("peak memory of client and server, a very large layer", transfers.client_memory),
    "access": Scenario("what rules and tokens cost: GETs a second with a bearer token and without", access.access),
    "tls": Scenario("HTTPS: pushes, pulls, GETs and handshakes, beside a peer, and beside plain HTTP", tls.tls),
    "adopt": Scenario("a tree of Docker's registry adopted: time, requests, memory", adopting.adopt),
}
