"""What is read off a running server: CPU seconds, memory, calls to the store, requests a second."""

from __future__ import annotations

import re
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import require_program, tree

SAMPLE_SECONDS = 0.1
CONNECTIONS = 16

_SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass
class Memory:
    """The highest sums over a process and all below it, in bytes, and how often they were taken.

    ``rss`` counts a page that processes share once for each of them, ``pss`` once.
    """

    rss: int = 0
    pss: int = 0
    samples: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def _watch(self, pid: int) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            rss = pss = 0
            for each in tree(pid):
                with suppress(OSError):
                    for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                        name, _, value = line.partition(":")
                        if name == "Rss":
                            rss += int(value.split()[0]) * 1024
                        elif name == "Pss":
                            pss += int(value.split()[0]) * 1024
            self.rss, self.pss = max(self.rss, rss), max(self.pss, pss)
            self.samples += 1
            self._over.wait(max(0.0, SAMPLE_SECONDS - (time.monotonic() - began)))


@contextmanager
def watched_memory(pid: int) -> Iterator[Memory]:
    """Samples the memory of a process and all below it, every `SAMPLE_SECONDS`, until the block ends."""
    memory = Memory()
    watcher = threading.Thread(target=memory._watch, args=(pid,), daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        memory._over.set()
        watcher.join()


def counters(port: int, name: str, label: str, path: str = "/metrics") -> Counter[str]:
    """The samples of a Prometheus counter, summed by one of its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for sample in _SAMPLE.finditer(text):
        if sample[1] == name:
            found[dict(_LABEL.findall(sample[2])).get(label, "")] += round(float(sample[3]))
    return found


def requests_a_second(
    port: int,
    paths: Sequence[str],
    *,
    accept: str,
    status: int,
    seconds: int,
    folder: Path,
    authorization: str | None = None,
    tls: bool = False,
    fresh: bool = False,
) -> float:
    """GETs of the paths in turn over `CONNECTIONS` kept connections; redirects are not followed.

    ``authorization`` goes with each. ``tls``: by HTTPS, whatever certificate is shown. ``fresh``: each on a connection
    of its own, which the server closes. Raises `RuntimeError` where an answer has another status than ``status``.
    """
    wrk = require_program("wrk", "sudo .ci/tools apt")
    script = folder / "wrk.lua"
    targets = folder / "targets"
    targets.write_text("\n".join(paths))
    headers = {"Accept": accept} | ({} if authorization is None else {"Authorization": authorization})
    if fresh:
        headers["Connection"] = "close"
    listed = ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items())
    script.write_text(_SCRIPT.format(targets=targets, headers=listed, status=status))
    command = [
        wrk,
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "-s",
        str(script),
        f"http{'s' if tls else ''}://127.0.0.1:{port}",
    ]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    rate = re.search(r"^Requests/sec: +([\d.]+)", said, re.MULTILINE)
    if rate is None or "wrong answers: 0" not in said or "Socket errors" in said:
        raise RuntimeError(f"wrk did not get what it asked for:\n{said}")
    return float(rate[1])


# One thread: `done` runs in a state of its own, but `wrong` is asked of the thread's.
_SCRIPT = """
local requests, at = {{}}, 0
wrong = 0
function init()
  for path in io.lines("{targets}") do
    requests[#requests + 1] = wrk.format("GET", path, {{ {headers} }})
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function response(status)
  if status ~= {status} then wrong = wrong + 1 end
end
local threads = {{}}
function setup(thread) threads[#threads + 1] = thread end
function done()
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + thread:get("wrong") end
  print("wrong answers: " .. sum)
end
"""
