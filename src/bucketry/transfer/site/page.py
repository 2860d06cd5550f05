"""``index.html``: the page for people, made from what is published. No I/O but for its template.

The page is one file: no font, script or image comes from elsewhere, and its policy (CSP) allows none. Without
JavaScript it is whole but for the host's name, the copy buttons and the filter. It depends on the state alone: whoever
makes it of the same state makes the same page.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from html import escape
from importlib.resources import files
from typing import Final

from bucketry.transfer.site.state import Entry, Repository, State
from bucketry.transfer.wording import counted, size_text

MOST_ROWS: Final = 5000
"""On a page, of all repositories; there are links to lists of the others."""
OPEN_ROWS: Final = 10
"""Repositories of more are shown closed, unless there is but one."""
OPEN_ALL: Final = 60
"""All are shown closed where there are more tags in all."""
MOST_PLATFORMS: Final = 8
"""Named in a row."""

_STYLE: Final = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_MARK: Final = re.compile(r"@(SUMMARY|REPOSITORIES|STYLE-HASH|SCRIPT-HASH)@")
_NUMBER: Final = re.compile(r"(\d+)")
_OF_DIGEST: Final = re.compile(r"sha(?:256-[0-9a-f]{64}|512-[0-9a-f]{128})(?:\.[a-z0-9]+)?", re.ASCII)
"""Tags that cosign and the referrers' fallback make: nobody pulls an image by them."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """A repository as the page has it: its tags in order, then what is published by its digest alone."""

    name: str
    rows: tuple[tuple[str | None, Entry], ...]
    of: Repository


def page(state: State) -> bytes:
    """The page, in UTF-8. Repositories in the order of their names; ``latest`` first, then the highest versions."""
    shown = [rows for name in state.names() if (rows := _rows(name, state.repositories[name])).rows]
    entries = [entry for each in shown for _, entry in each.rows]
    most = _fair([len(each.rows) for each in shown])
    open_all = len(entries) <= OPEN_ALL
    sections = [
        _repository(each, most, opened=len(shown) == 1 or (open_all and len(each.rows) <= OPEN_ROWS))
        for each in shown[:MOST_ROWS]
    ]
    if len(shown) > MOST_ROWS:
        more = counted(len(shown) - MOST_ROWS, "repository", "repositories")
        sections.append(f'<p class="note">And {more} more: <a href="v2/_catalog">v2/_catalog</a></p>')
    text, hashes = _template()
    values = {
        **hashes,
        "SUMMARY": _summary(len(shown), entries),
        "REPOSITORIES": "\n".join(sections) or '<p class="note">Nothing is published here.</p>',
    }
    return _MARK.sub(lambda mark: values[mark[1]], text).encode()


@cache
def _template() -> tuple[str, dict[str, str]]:
    text = files(__package__).joinpath("page.html").read_text("utf-8")
    return text, {"STYLE-HASH": _hash(_STYLE, text), "SCRIPT-HASH": _hash(_SCRIPT, text)}


def _hash(block: re.Pattern[str], text: str) -> str:
    """What the policy allows: an element of just these characters."""
    found = block.search(text)
    assert found is not None
    return f"sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}"


def _rows(name: str, repository: Repository) -> _Rows:
    tags = [tag for tag in repository.tags if _OF_DIGEST.fullmatch(tag) is None]
    tags.sort(key=_version, reverse=True)
    rows: list[tuple[str | None, Entry]] = [(tag, repository.tags[tag]) for tag in tags]
    rows += [(None, repository.digests[digest]) for digest in sorted(repository.digests)]
    return _Rows(name, tuple(rows), repository)


def _version(tag: str) -> tuple[bool, tuple[tuple[bool, int, str], ...]]:
    """Orders ``1.10`` after ``1.9``, ``1.10-rc1`` before ``1.10``, and ``latest`` after all of them."""
    parts = [part for part in _NUMBER.split(tag) if part]
    keys = [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
    # The end is higher than a dash, which begins what comes before a release, and lower than all else.
    return tag == "latest", (*keys, (False, 0, "-\x7f"))


def _fair(counts: Sequence[int]) -> int:
    """The most rows that each repository gets so that all of them together have no more than `MOST_ROWS`."""
    left, most = MOST_ROWS, MOST_ROWS
    for index, count in enumerate(sorted(counts)):
        most = left // (len(counts) - index)
        if count > most:
            break
        left -= count
    else:
        return MOST_ROWS
    return max(1, most)


def _summary(repositories: int, entries: Sequence[Entry]) -> str:
    said = f"{counted(repositories, 'repository', 'repositories')}, {counted(len(entries), 'image', 'images')}"
    if not entries:
        return said
    return f'{said}, at <span class="host">HOST</span>. Last change: {_time(max(each.updated for each in entries))}'


def _repository(repository: _Rows, most: int, *, opened: bool) -> str:
    name, rows = escape(repository.name), repository.rows
    lines = [
        f'<details class="repo"{" open" if opened else ""}>'
        f'<summary><h2>{name}</h2> <span class="soft">{counted(len(rows), "image", "images")}</span></summary>',
        "<ul>",
        *(_row(name, tag, entry, len(repository.of.referrers.get(entry.digest, ()))) for tag, entry in rows[:most]),
        "</ul>",
    ]
    if len(rows) > most:
        link = f"v2/{name}/tags/list"
        lines.append(f'<p class="soft">And {len(rows) - most:,} more: <a href="{link}">{link}</a></p>')
    return "\n".join([*lines, "</details>"])


def _row(name: str, tag: str | None, entry: Entry, referrers: int) -> str:
    names = list(dict.fromkeys(each.platform for each in entry.platforms))
    platforms = ", ".join(names[:MOST_PLATFORMS])
    if len(names) > MOST_PLATFORMS:
        platforms += f" and {len(names) - MOST_PLATFORMS} more"
    attached = counted(referrers, "referrer", "referrers") if referrers else ""
    about = "".join(f"<span>{escape(each)}</span> " for each in (platforms, _size(entry), attached) if each)
    # Where a narrow screen may begin a new line; it is not copied.
    path = f"/{name}".replace("/", "/<wbr>")
    ending = f":<wbr>{escape(tag)}" if tag is not None else f"@<wbr>{escape(entry.digest)}"
    # What runs nowhere is a chart, an SBOM or the like, which container engines do not pull.
    verb = "docker" if entry.platforms else "oras"
    return (
        f'<li><div class="head"><b>{"(no tag)" if tag is None else escape(tag)}</b> {about}{_time(entry.updated)}</div>'
        f'<div class="line"><code>{verb} pull <span class="host">HOST</span>{path}{ending}</code></div>'
        f'<div class="digest"><code>{escape(entry.digest)}</code></div></li>'
    )


def _size(entry: Entry) -> str:
    """What a pull moves: of an index that of its smallest and of its largest image."""
    sizes = [each.size for each in entry.platforms] or [entry.size]
    least, most = size_text(min(sizes)), size_text(max(sizes))
    return least if least == most else f"{least} to {most}"


def _time(at: float) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    return f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%Y-%m-%d %H:%M} UTC</time>'
