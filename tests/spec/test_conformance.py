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
from tests.support.server import assert_no_fault, bucketry

log = logging.getLogger(__name__)

LEAST_PASSED = 790
"""The suite as pinned has 793 tests without sparse manifests; fewer would mean that a part of it did not run."""

EXPECTED_SKIPS: Mapping[str, str] = {}
"""Lines of the suite's summary that may say Skip, and why bucketry does not offer the thing."""

SPARSE_LINE = "Sparse Manifests"

SPARSE = "[manifest]\nsparse = true\n"
REDIRECT_ALL = '[delivery]\nmode = "redirect"\nredirect_from = 0\n'
REDIRECTED = '"status":307'
"""What the access log has of a redirect."""

Deployment: TypeAlias = Callable[[str], AbstractContextManager[str]]
"""Given the configuration (TOML), a running registry's ``host:port``."""


@pytest.fixture
def local(tmp_path: Path) -> Deployment:
    """One server on a folder."""

    @contextmanager
    def deploy(config: str) -> Iterator[str]:
        with bucketry(str(tmp_path / "store"), tmp_path / "server", config=config) as server:
            yield server.host
            assert_no_fault(server)

    return deploy


prefixes = itertools.count()


@pytest.fixture
def s3(tmp_path: Path, seaweed: Seaweed) -> Deployment:
    """One server on S3, which redirects large blobs to the bucket."""

    @contextmanager
    def deploy(config: str) -> Iterator[str]:
        store = f"s3://{seaweed.bucket}/conformance-{next(prefixes)}"
        with bucketry(store, tmp_path / "server", config=config, env=seaweed.environ()) as server:
            yield server.host
            assert_no_fault(server)

    return deploy


@pytest.fixture
def redirecting(tmp_path: Path, seaweed: Seaweed) -> Deployment:
    """One server on S3, which redirects every blob."""

    @contextmanager
    def deploy(config: str) -> Iterator[str]:
        store = f"s3://{seaweed.bucket}/conformance-{next(prefixes)}"
        config += REDIRECT_ALL
        with bucketry(store, tmp_path / "server", config=config, env=seaweed.environ()) as server:
            yield server.host
            redirects = server.log().count(REDIRECTED)
            assert redirects > 20, f"{redirects} blobs came from the bucket"
            assert_no_fault(server)

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
            for server in servers:
                assert proxy.requests[server.host] > 500, proxy.requests
                assert_no_fault(server)

    return deploy


@pytest.mark.parametrize("sparse", [False, True], ids=["whole", "sparse"])
@pytest.mark.parametrize("deployment", ["local", "s3", "redirecting", "replicated"])
def test_conformance_program_finds_no_failure(
    deployment: str, sparse: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    deploy: Deployment = request.getfixturevalue(deployment)
    results = tmp_path / "results"
    results.mkdir()
    options = {"OCI_DATA_SPARSE": str(sparse).lower()}
    if deployment == "redirecting":
        # The program follows the redirect and looks for the header in the bucket's answer, where S3 cannot put it.
        options["OCI_API_BLOBS_DIGEST_HEADER"] = "false"
    with deploy(SPARSE if sparse else "") as host:
        report = run_conformance(host, results, **options)
    log.info("conformance, %s, sparse %s: %s", deployment, "on" if sparse else "off", report.summary())
    assert_conforms(report, sparse=sparse)


def assert_conforms(report: Report, *, sparse: bool) -> None:
    bad = report.ended("failure", "error")
    if bad:
        pytest.fail("\n\n".join(f"{case.name}\n{case.why}" for case in bad[:20]), pytrace=False)
    assert report.exit_status == 0, report.output[-4000:]
    passed = len(report.ended("passed"))
    assert passed >= LEAST_PASSED, report.summary()
    # A registry that answers "unsupported" is not failed by the program, so its skips are held to a list.
    expected = dict.fromkeys(EXPECTED_SKIPS, "Skip")
    if not sparse:
        expected[SPARSE_LINE] = "Disabled"
    others = {line: verdict for line, verdict in report.verdicts.items() if verdict != "Pass"}
    skipped = [f"{case.name}: {case.why}" for case in report.ended("skipped")]
    assert others == expected, skipped
