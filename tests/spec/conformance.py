"""Running the official conformance program of the distribution spec, and reading what it found."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import tool

SETTINGS = {
    "OCI_VERSION": "1.1",
    "OCI_TLS": "disabled",
    "OCI_API_BLOBS_ATOMIC": "true",
    "OCI_API_BLOBS_DELETE": "true",
    "OCI_API_BLOBS_DIGEST_HEADER": "true",
    "OCI_API_BLOBS_MOUNT_ANONYMOUS": "true",
    "OCI_API_BLOBS_UPLOAD_CANCEL": "true",
    "OCI_API_MANIFESTS_ATOMIC": "true",
    "OCI_API_MANIFESTS_DELETE": "true",
    "OCI_API_MANIFESTS_DIGEST_HEADER": "true",
    "OCI_API_MANIFESTS_TAG_PARAM": "true",
    "OCI_API_TAGS_ATOMIC": "true",
    "OCI_API_TAGS_DELETE": "true",
    "OCI_API_TAGS_LIST": "true",
    "OCI_API_REFERRER": "true",
    "OCI_DATA_INDEX_LIST": "true",
    "OCI_DATA_SUBJECT_MISSING": "true",
    "OCI_DATA_NONDISTRIBUTABLE": "true",
    "OCI_DATA_EMPTY_BLOB": "true",
    "OCI_DATA_SHA512": "true",
}
"""Every optional part that is off by default is on, and those on by default are held there."""

SECONDS = 180
VERDICT = re.compile(r"^  (\S.*?)\.*:\s+(Pass|Skip|FAIL|Disabled|Error|Unknown)$", re.MULTILINE)
"""A line of the program's summary: an API or a kind of data, and how it did."""


@dataclass(frozen=True)
class Case:
    """One test of the suite. ``status``: passed, skipped, failure, error; ``why``: what it said of a bad end."""

    name: str
    status: str
    why: str


@dataclass(frozen=True, repr=False)
class Report:
    """``verdicts``: each line of the summary, to Pass, Skip, FAIL, Disabled or Error."""

    exit_status: int
    output: str
    cases: tuple[Case, ...]
    verdicts: dict[str, str]

    def __repr__(self) -> str:
        return f"<Report: {self.summary()}>"

    def ended(self, *statuses: str) -> list[Case]:
        return [case for case in self.cases if case.status in statuses]

    def summary(self) -> str:
        counts = {status: len(self.ended(status)) for status in ("passed", "skipped", "failure", "error")}
        return ", ".join(f"{number} {status}" for status, number in counts.items())


def run_conformance(host: str, results: Path, **options: str) -> Report:
    """Runs all of it against the registry at ``host``, which keeps no content of an earlier run.

    ``options``: further settings of the program's, over `SETTINGS`. Its own report (``report.html``, with every
    request and answer) stays in ``results``.
    """
    ended = subprocess.run(
        [tool("conformance")],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(results),
            **SETTINGS,
            "OCI_REGISTRY": host,
            "OCI_RESULTS_DIR": str(results),
            **options,
        },
        cwd=results,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    junit = results / "junit.xml"
    assert junit.is_file(), f"the conformance program left no report:\n{ended.stdout[-4000:]}"
    cases = tuple(
        Case(case.attrib["name"], case.attrib["status"], (case.findtext("system-out") or "").strip())
        for case in ElementTree.parse(junit).iter("testcase")
    )
    return Report(ended.returncode, ended.stdout, cases, dict(VERDICT.findall(ended.stdout)))
