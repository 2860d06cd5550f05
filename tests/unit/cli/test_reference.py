"""The reference pages are made from the code, hold all of it, and are not stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucketry.cli import reference
from bucketry.cli.app import EXIT_CODES
from bucketry.server.config import SETTINGS

DOCS = Path(__file__).parents[3] / "docs" / "reference"


@pytest.mark.parametrize("name", reference.pages())
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert (DOCS / name).read_text() == reference.pages()[name], "run: python -m bucketry.cli.reference docs/reference"


def test_every_setting_is_on_the_page() -> None:
    page = reference.pages()["configuration.md"]
    for setting in SETTINGS.values():
        assert f"| `{setting.name}` | " in page
        assert setting.description in page


@pytest.mark.parametrize(
    "words",
    [
        "## bucketry serve",
        "## bucketry push",
        "bucketry push SOURCE [DEST] [OPTIONS]",
        "bucketry pull REF [DEST] [OPTIONS]",
        "bucketry copy SOURCE DEST [OPTIONS]",
        "## bucketry inspect",
        "## bucketry login",
        "## bucketry logout",
        *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()),
        "## bucketry doctor",
        "## bucketry config show",
        "## bucketry version",
        "`--set SECTION.KEY=",
    ],
)
def test_every_command_is_on_the_page(words: str) -> None:
    assert words in reference.pages()["cli.md"]


def test_a_stale_page_is_found_and_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check", str(tmp_path)]) == 1
    assert "cli.md is stale" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert reference.main([str(tmp_path)]) == 0
    assert reference.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "cli.md").write_text("old")
    assert reference.main(["--check", str(tmp_path)]) == 1


def test_without_a_folder_it_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main([]) == 2
    assert "usage: " in capsys.readouterr().err
