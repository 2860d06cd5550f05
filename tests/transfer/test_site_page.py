"""The page of a site in a real browser: the host it fills in, its filter, its buttons, a phone's width, no scripts."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemons import short_folder
from tests.support.tools import tool

from bucketry.transfer.site.page import page
from bucketry.transfer.site.state import Entry, PlatformSize, Repository, State

PHONE = 375
"""Pixels."""
LONG = "team/tools/a-rather-long-repository-name-that-does-not-fit-on-a-phone-" + "x" * 40

PROBE = """<!doctype html><iframe src="PAGE" SANDBOX style="width:WIDTHpx;height:700px;border:0"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = async () => {
  const page = frame.contentDocument, root = page.documentElement, all = (what) => [...page.querySelectorAll(what)];
  const visible = (what) => all(what).filter((each) => each.checkVisibility());
  const shown = () => visible(".repo li").map((row) => row.querySelector("b").textContent);
  const notes = visible(".note").map((each) => each.textContent);
  const said = { open: all(".repo[open] h2").map((each) => each.textContent), before: shown().length };
  said.commands = all(".line > code").map((each) => each.textContent);
  said.names = all("h2").map((each) => each.textContent);
  said.note = notes.join();
  said.buttons = all(".line > button").map((each) => each.getAttribute("aria-label"));
  said.times = all("time").map((each) => each.textContent);
  const wanted = page.getElementById("wanted");
  said.filter = wanted.checkVisibility();
  const type = (text) => { wanted.value = text; wanted.dispatchEvent(new Event("input", { bubbles: true })); };
  type("MANY arm64 2.1"); said.found = shown(); said.count = page.getElementById("found").textContent;
  type("no such thing"); said.none = shown();
  type(""); said.after = shown().length;
  for (const each of all("details")) each.open = true;
  said.wide = root.scrollWidth - root.clientWidth;
  said.high = root.scrollHeight > 700;
  document.title = JSON.stringify(said);
};
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@dataclass(frozen=True)
class Browser:
    """``folder`` is served at ``host``."""

    folder: Path
    host: str
    profile: Path

    def opens(self, url: str, *options: str) -> str:
        """The document as it is once it has loaded and its scripts have run. Fails where the page's policy was hit."""
        command = [tool("chromium"), "--headless", "--disable-gpu", f"--user-data-dir={self.profile}"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        command += ["--enable-logging=stderr", "--disable-dev-shm-usage", "--dump-dom", *options, url]
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=60,
            # Nothing of the person's own, such as their session of a desktop.
            env={"PATH": os.environ["PATH"], "HOME": str(self.profile), "TMPDIR": str(self.profile)},
        )
        said = done.stderr.decode(errors="replace")
        assert done.returncode == 0, said
        assert "Content Security Policy" not in said, said
        assert "Uncaught" not in said, said
        return done.stdout.decode()

    def tells(self, path: str = "index.html", *, width: int = PHONE, scripts: bool = True) -> dict[str, Any]:
        """What `PROBE` found in a page of that width, which is a frame: no window here is narrower than 500."""
        name = f"probe-{width}-{scripts}-{path.replace('/', '-')}"
        probe = PROBE.replace("PAGE", path).replace("WIDTH", str(width))
        (self.folder / name).write_text(probe.replace("SANDBOX", "" if scripts else 'sandbox="allow-same-origin"'))
        dumped = self.opens(f"http://{self.host}/{name}")
        title = re.search(r"<title>(.*?)</title>", dumped, re.DOTALL)
        assert title is not None, dumped
        told: dict[str, Any] = json.loads(unescape(title[1]))
        return told


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def entry(text: str, *platforms: str) -> Entry:
    images = tuple(PlatformSize(each, digest(text + each), 2_000_000) for each in platforms)
    return Entry(digest=digest(text), media_type="type", size=345, updated=1_700_000_000.0, platforms=images)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    tool("chromium")
    folder = tmp_path_factory.mktemp("site")
    both = ("linux/amd64", "linux/arm64")
    repositories = {
        "app": Repository(tags={tag: entry(tag, *both) for tag in ("latest", "1.0")}),
        "many": Repository(tags={f"2.{number}": entry(f"2.{number}", *both) for number in range(20)}),
        "chart": Repository(tags={"0.1.0": entry("chart")}, digests={digest("bare"): entry("bare", *both)}),
        LONG: Repository(tags={"v" * 128: entry("long", *(f"linux/platform-of-a-long-name/{n}" for n in range(8)))}),
    }
    made = page(State(format=1, created=0.0, nonce="n", repositories=repositories))
    (folder / "below").mkdir()
    for name in ("index.html", "below/index.html"):
        (folder / name).write_bytes(made)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        # It makes a socket there.
        with short_folder() as profile:
            yield Browser(folder, f"127.0.0.1:{server.server_port}", profile)
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def told(browser: Browser) -> dict[str, Any]:
    return browser.tells()


def test_names_and_pull_commands_are_there_with_the_host_the_page_came_from(
    told: dict[str, Any], browser: Browser
) -> None:
    assert told["names"] == ["app", "chart", "many", LONG]
    assert told["commands"][:4] == [
        f"docker pull {browser.host}/app:latest",
        f"docker pull {browser.host}/app:1.0",
        f"oras pull {browser.host}/chart:0.1.0",
        f"docker pull {browser.host}/chart@{digest('bare')}",
    ]
    assert told["note"] == ""


def test_each_command_has_a_button_that_says_what_it_copies(told: dict[str, Any]) -> None:
    assert told["buttons"] == [f"Copy {command}" for command in told["commands"]]


def test_times_are_told_as_how_long_ago(told: dict[str, Any]) -> None:
    assert all(time.endswith("ago") for time in told["times"])


def test_nothing_is_wider_than_a_phone_with_everything_open(told: dict[str, Any]) -> None:
    assert told["wide"] == 0
    assert told["high"], "everything fitted on one screen: nothing was laid out"


def test_nothing_is_wider_than_a_small_phone_or_a_desktop(browser: Browser) -> None:
    assert browser.tells(width=320)["wide"] == 0
    assert browser.tells(width=1200)["wide"] == 0


def test_the_filter_shows_what_has_all_the_words_and_then_all_as_before(told: dict[str, Any]) -> None:
    assert told["filter"]
    assert told["open"] == ["app", "chart", LONG]
    assert told["found"] == ["2.19", "2.18", "2.17", "2.16", "2.15", "2.14", "2.13", "2.12", "2.11", "2.10", "2.1"]
    assert told["count"] == "11 images"
    assert told["none"] == []
    assert told["after"] == told["before"] == 5


def test_a_page_that_is_not_at_the_root_of_its_host_says_what_clients_need(browser: Browser) -> None:
    told = browser.tells("below/index.html")

    assert told["commands"][0] == "docker pull HOST/app:latest"
    assert "at the root of a host, and this page is at /below/" in told["note"]


def test_a_page_that_is_opened_as_a_file_names_no_host(browser: Browser) -> None:
    dumped = browser.opens((browser.folder / "index.html").as_uri())

    assert 'docker pull <span class="host">HOST</span>' in dumped
    assert "HOST stands for the host that serves these files" in dumped


def test_the_page_is_whole_without_scripts(browser: Browser) -> None:
    told = browser.tells(scripts=False)

    assert told["commands"][0] == "docker pull HOST/app:latest"
    assert len(told["commands"]) == 25
    assert told["note"] == "HOST stands for the host of this page's own address."
    assert told["times"][0] == "2023-11-14 22:13 UTC"
    assert (told["buttons"], told["filter"], told["wide"]) == ([], False, 0)


def test_a_picture_of_it_on_a_phone_can_be_taken(browser: Browser, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    browser.opens(f"http://{browser.host}/", f"--screenshot={picture}", "--window-size=500,900")

    assert picture.read_bytes().startswith(b"\x89PNG")
