"""The official conformance program finds no failure, with every optional part on, wherever bucketry keeps its state."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.spec.conformance import Report, run_conformance
from tests.store.seaweed import Seaweed
from tests.support.proxy import round_robin
from tests.support.server import bucketry

log = logging.getLogger(__name__)

LEAST_PASSED = 900
"""The suite as pinned runs more than this; far fewer would mean that much of it did not run."""

EXPECTED_SKIPS: Mapping[str, str] = {}
"""Lines of the suite's summary that may say Skip, and why bucketry does not offer the thing."""

SPARSE_LINE = "Sparse Manifests"

Deployment: TypeAlias = Callable[[str], AbstractContextManager[str]]
"""Given the configuration (TOML), a running registry's ``host:port``."""


@pytest.fixture
def local(tmp_path: Path) -> Deployment:
    @contextmanager
    def deploy(config: str) -> Iterator[str]:
        with bucketry(str(tmp_path / "store"), tmp_path / "server", config=config) as server:
            yield server.host

    return deploy


prefixes = itertools.count()


@pytest.fixture
def redirecting(tmp_path: Path, seaweed: Seaweed) -> Deployment:
    """One server on S3, whose clients get blobs from the bucket."""

    @contextmanager
    def deploy(config: str) -> Iterator[str]:
        store = f"s3://{seaweed.bucket}/conformance-{next(prefixes)}"
        environ = seaweed.environ()
        with bucketry(store, tmp_path / "server", config=config, env=environ) as server:
            yield server.host

    return deploy


@pytest.fixture
def replicated(tmp_path: Path, seaweed: Seaweed) -> Deployment:
    """Two server processes on one bucket, addressed in turn, request by request."""

    @contextmanager
    def deploy(config: str) -> Iterator[str]:
        store = f"s3://{seaweed.bucket}/conformance-{next(prefixes)}"
        with ExitStack() as stack:
            servers = [
                stack.enter_context(
                    bucketry(store, tmp_path / name, config=config, options=["--workers", "1"], env=seaweed.environ())
                )
                for name in ("one", "two")
            ]
            proxy = stack.enter_context(round_robin(*(server.host for server in servers)))
            yield proxy.host
            assert all(proxy.requests[server.host] > 100 for server in servers), proxy.requests

    return deploy


@pytest.mark.parametrize("sparse", [False, True], ids=["whole", "sparse"])
@pytest.mark.parametrize("deployment", ["local", "redirecting", "replicated"])
def test_conformance_program_finds_no_failure(
    deployment: str, sparse: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    deploy: Deployment = request.getfixturevalue(deployment)
    config = f'[delivery]\nmode = "redirect"\n[manifest]\nsparse_indexes = {str(sparse).lower()}\n'
    results = tmp_path / "results"
    results.mkdir()
    with deploy(config) as host:
        report = run_conformance(host, results, sparse=sparse)
    log.info("conformance, %s, sparse %s: %s", deployment, "on" if sparse else "off", report.summary())
    assert_conforms(report, sparse=sparse)


def assert_conforms(report: Report, *, sparse: bool) -> None:
    bad = report.ended("failure", "error")
    assert not bad, "\n\n".join(f"{case.name}\n{case.why}" for case in bad[:20])
    assert report.exit_status == 0, report.output[-4000:]
    assert len(report.ended("passed")) >= LEAST_PASSED, report.summary()
    # A registry that answers "unsupported" is not failed by the program, so its skips are held to a list.
    expected = dict.fromkeys(EXPECTED_SKIPS, "Skip")
    if not sparse:
        expected[SPARSE_LINE] = "Disabled"
    others = {line: verdict for line, verdict in report.verdicts.items() if verdict != "Pass"}
    assert others == expected, [f"{case.name}: {case.why}" for case in report.ended("skipped")][:20]
