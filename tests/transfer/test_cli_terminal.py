"""Progress on a real (pseudo) terminal: what a person sees while it runs, and what is left when it has ended."""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.images import KIB, MIB, OCI_MANIFEST, Image, blob_path, make_image, write_layout
from tests.transfer.command import Person
from tests.transfer.terminal import Seen, screen, watch

COLOR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def content() -> Image:
    return make_image(seed=5, sizes=(300, 200 * KIB, 12 * MIB))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, content: Image) -> Path:
    return write_layout(tmp_path_factory.mktemp("terminal") / "layout", content, "v1")


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person.at(tmp_path / "person")


def sees(person: Person, *arguments: str | Path, env: Mapping[str, str] | None = None, **terminal: Any) -> Seen:
    command, environ = person.command(arguments, env)
    return watch(command, env=environ, cwd=person.work, **terminal)


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_a_bar_for_each_layer_and_one_for_all(columns: int, person: Person, layout: Path, content: Image) -> None:
    seen = sees(person, "push", f"oci:{layout}:v1", "file:registry/app:v1", columns=columns)

    assert seen.code == 0, seen.raw
    assert "\x1b[?25l" in seen.raw
    assert seen.cursor_is_visible
    text = "\n".join(seen.screen)
    bars = [line for line in seen.screen if "━" in line]
    assert len(bars) == 4, text
    assert bars[0].startswith("all ")
    for layer in content.layers:
        [bar] = [line for line in bars if short(layer.digest) in line]
        assert len(bar) < columns
        assert ("layer " in bar and bar.endswith(" done")) == (columns >= 80), bar
    flat = text.replace("\n", "")
    assert "pushed 12.2 MiB in " in flat
    assert content.digest in flat
    assert "bucketry pull file:" in flat


def test_more_layers_than_the_terminal_has_lines(person: Person) -> None:
    many = make_image(seed=6, sizes=[4 * KIB] * 20)
    layout = write_layout(person.folder / "many", many, "v1")

    seen = sees(person, "push", f"oci:{layout}:v1", "file:registry/app:v1", rows=10)

    assert seen.code == 0, seen.raw
    assert len([line for line in seen.screen if "━" in line]) <= 10
    assert sum("pushed " in line for line in seen.screen) == 1


def test_what_is_there_already_is_told_without_bars(person: Person, layout: Path, content: Image) -> None:
    assert person.types("push", f"oci:{layout}:v1", "file:registry/app:v1").code == 0

    seen = sees(person, "push", f"oci:{layout}:v1", "file:registry/app:v2", columns=300)

    first, *lines, result, digest, pull, end = seen.screen
    assert first.startswith(f"oci:{layout}:v1 -> file:")
    blobs = [("config", content.config), *(("layer", layer) for layer in content.layers)]
    assert sorted(lines) == sorted(f"{kind} sha256:{short(blob.digest)}: already there" for kind, blob in blobs)
    assert result.startswith("no layer had to be pushed: 12.2 MiB were there already; ")
    assert result.endswith("app:v2 is up to date")
    assert (digest, pull[:14], end) == (content.digest, "bucketry pull ", "")


def test_an_error_comes_after_the_bars(person: Person, layout: Path, content: Image) -> None:
    bad = write_layout(person.folder / "bad", content, "v1")
    path = blob_path(bad, content.layers[2].digest)
    path.write_bytes(bytes(len(content.layers[2].data)))

    seen = sees(person, "push", f"oci:{bad}:v1", "file:registry/app:v1", columns=80)

    assert seen.code == 1
    assert seen.cursor_is_visible
    lines = [line for line in seen.screen if line]
    [first] = [number for number, line in enumerate(lines) if line.startswith("bucketry: ")]
    assert "━" not in "".join(lines[first:])
    bars = [line for line in lines if "━" in line]
    assert len({line.split("━")[0] for line in bars}) == len(bars), bars
    assert bars[0].endswith("stopped")
    assert "left" not in "\n".join(lines)


def test_the_result_goes_into_a_pipe_and_the_bars_to_the_terminal(person: Person, layout: Path, content: Image) -> None:
    seen = sees(person, "push", f"oci:{layout}:v1", "file:registry/app:v1", out=False)

    first, digest, pull = seen.out.splitlines()
    assert first.startswith("pushed 12.2 MiB in ")
    assert (digest, "\x1b" in seen.out) == (content.digest, False)
    assert pull.startswith("bucketry pull file:")
    assert "━" in seen.raw
    assert "pushed" not in seen.raw


@pytest.mark.parametrize(
    ("flags", "env", "err"),
    [([], {}, False), (["--plain"], {}, True), ([], {"TERM": "dumb"}, True), (["--json"], {}, True)],
)
def test_lines_where_bars_are_not_wanted(
    flags: list[str], env: Mapping[str, str], err: bool, person: Person, layout: Path
) -> None:
    seen = sees(person, "push", f"oci:{layout}:v1", "file:registry/app:v1", *flags, env=env, err=err)

    assert seen.code == 0
    assert "\x1b" not in seen.raw + seen.out + seen.err
    assert "━" not in seen.raw + seen.out + seen.err


def test_no_colors_for_those_who_want_none(person: Person, layout: Path) -> None:
    seen = sees(person, "push", f"oci:{layout}:v1", "file:registry/app:v1", env={"NO_COLOR": "1"})
    assert "━" in seen.raw
    assert not [code for code in COLOR.findall(seen.raw) if re.search(r"[349][0-9]", code)]

    seen = sees(person, "push", f"oci:{layout}:v1", "file:other/app:v1")
    assert [code for code in COLOR.findall(seen.raw) if re.search(r"[349][0-9]", code)]


@pytest.fixture(scope="module")
def slow(layout: Path, content: Image) -> Iterator[str]:
    """The host of a registry on a slow line."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            path = blob_path(layout, content.digest if name == "v1" else name)
            data = path.read_bytes() if "/app/" in self.path and path.is_file() else None
            self.send_response_only(404 if data is None else 200)
            self.send_header("Content-Type", OCI_MANIFEST if name == "v1" else "application/octet-stream")
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            for start in range(0, len(data or b""), 64 * KIB):
                time.sleep(0.02)
                try:
                    self.wfile.write((data or b"")[start : start + 64 * KIB])
                except OSError:
                    break

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_ctrl_c_leaves_a_terminal_that_can_be_used(person: Person, slow: str) -> None:
    seen = sees(person, "pull", f"{slow}/app:v1", "oci:out", types=(lambda raw: "MiB/s, " in raw, b"\x03"))

    assert seen.code == 130
    assert seen.cursor_is_visible
    lines = [line.replace("^C", "") for line in seen.screen if line.replace("^C", "")]
    assert lines[-1] == "bucketry: stopped. The same command goes on where it was stopped."
    assert [line for line in lines if line.startswith("all ")][-1].endswith("stopped")
    assert "Traceback" not in seen.raw
    assert not (person.work / "out" / "index.json").exists()


def test_rate_and_time_left_are_shown_while_it_runs(person: Person, slow: str) -> None:
    seen = sees(person, "pull", f"{slow}/app:v1", "oci:out")

    assert seen.code == 0, seen.raw
    assert re.search(r"\d+\.\d MiB/s, \d s left", seen.raw)
    assert not any("left" in line for line in seen.screen)


def test_the_terminal_of_these_tests() -> None:
    assert screen("abc\r\n\x1b[2K\x1b[1A\x1b[2Kx\x1b[31my\x1b[0m", 10) == ["xy", ""]
    assert screen("abcdef", 4) == ["abcd", "ef"]
