"""The page of a site as text: what it names, in which order, how much of it; that it escapes, and needs nobody else."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.oci import Descriptor
from bucketry.transfer.site.page import MOST_PLATFORMS, MOST_ROWS, _fair, page
from bucketry.transfer.site.state import Entry, PlatformSize, Repository, State

MIB = 1024 * 1024
NOON = 1_790_000_000.0
BOTH = ("linux/amd64", "linux/arm64")


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def entry(text: str, *sizes: int, platforms: tuple[str, ...] = BOTH, updated: float = NOON) -> Entry:
    """Of an index; ``sizes`` of its images."""
    images = tuple(
        PlatformSize(platform=platform, digest=digest(text + platform), size=size)
        for platform, size in zip(platforms, sizes or (MIB,) * len(platforms), strict=True)
    )
    size = sum(image.size for image in images) or 345
    return Entry(digest=digest(text), media_type="type", size=size, updated=updated, platforms=images)


def tagged(*tags: str) -> Repository:
    return Repository(tags={tag: entry(tag) for tag in tags})


def made(**repositories: Repository) -> str:
    return page(of(repositories)).decode()


def of(repositories: dict[str, Repository]) -> State:
    return State(format=1, created=NOON, nonce="n", repositories=repositories)


class Reader(HTMLParser):
    """``texts``: what stands in the elements of a name or ``.class``, in order. ``links``: what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, list[list[str]]]] = []
        self.pieces: dict[str, list[list[str]]] = {}
        self.links: list[str] = []
        self.opened: list[bool] = []
        self.feed(text)
        assert self.open == [], "an element was not ended"
        self.texts = {name: ["".join(one) for one in found] for name, found in self.pieces.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href") and value is not None]
        assert not any(name.startswith("on") or name == "style" for name in named), "the policy forbids these"
        if tag == "details":
            self.opened.append("open" in named)
        if tag not in ("meta", "link", "wbr", "input"):
            names = [tag, f".{named['class']}"] if "class" in named else [tag]
            self.open.append((tag, [[] for _ in names]))
            for name, pieces in zip(names, self.open[-1][1], strict=True):
                self.pieces.setdefault(name, []).append(pieces)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, names in self.open:
            for pieces in names:
                pieces.append(data)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError("HTML has no such elements")


def commands(text: str) -> list[str]:
    return Reader(text).texts.get(".line", [])


def test_each_image_has_its_command_its_platforms_its_size_its_digest_and_its_time() -> None:
    reader = Reader(made(app=Repository(tags={"v1": entry("one", 10 * MIB, 12 * MIB)})))

    assert reader.texts["h2"] == ["app"]
    assert reader.texts[".line"] == ["docker pull HOST/app:v1"]
    assert reader.texts[".head"] == ["v1 linux/amd64, linux/arm64 10.0 MiB to 12.0 MiB 2026-09-21 14:13 UTC"]
    assert reader.texts[".digest"] == [digest("one")]


def test_an_image_of_one_platform_has_one_size() -> None:
    one = entry("one", 10 * MIB, platforms=("linux/arm/v7",))

    assert "v1 linux/arm/v7 10.0 MiB 2026" in Reader(made(app=Repository(tags={"v1": one}))).texts[".head"][0]


def test_what_runs_nowhere_is_pulled_by_oras() -> None:
    text = made(chart=Repository(tags={"1.0": entry("chart", platforms=())}))

    assert commands(text) == ["oras pull HOST/chart:1.0"]
    assert "345 B" in Reader(text).texts[".head"][0]


def test_what_has_no_tag_is_pulled_by_its_digest() -> None:
    text = made(app=Repository(digests={digest("one"): entry("one")}))

    assert commands(text) == [f"docker pull HOST/app@{digest('one')}"]
    assert Reader(text).texts["b"] == ["(no tag)"]


def test_referrers_are_counted_and_the_tags_that_stand_for_them_left_out() -> None:
    signature = Descriptor(media_type="m", digest=digest("sig"), size=1)
    repository = Repository(
        tags={
            "v1": entry("one"),
            f"sha256-{'a' * 64}.sig": entry("sig"),
            f"sha256-{'a' * 64}": entry("list"),
            "sha256-short": entry("short"),
        },
        referrers={digest("one"): (signature, signature)},
    )
    reader = Reader(made(app=repository))

    assert set(reader.texts["b"]) == {"v1", "sha256-short"}
    assert sum("2 referrers" in head for head in reader.texts[".head"]) == 1


def test_versions_are_in_their_order_with_latest_before_all() -> None:
    text = made(app=tagged("1.9.0", "edge", "1.10.0", "1.10.0-rc1", "latest", "1.10", "1.10.0.1", "2"))

    assert Reader(text).texts["b"] == ["latest", "2", "1.10.0.1", "1.10.0", "1.10.0-rc1", "1.10", "1.9.0", "edge"]


def test_repositories_are_in_their_order_and_one_that_is_only_being_filled_is_not_there() -> None:
    reader = Reader(made(b=tagged("1"), a=tagged("1"), c=Repository()))

    assert reader.texts["h2"] == ["a", "b"]
    assert "2 repositories, 2 images" in reader.texts["header"][0]


def test_a_site_of_nothing_says_so() -> None:
    assert "Nothing is published here." in made()


@pytest.mark.parametrize(
    ("repositories", "opened"),
    [
        ({"a": tagged("1"), "b": tagged(*map(str, range(11)))}, [True, False]),
        ({"a": tagged(*map(str, range(500)))}, [True]),
        ({f"a{number:03}": tagged("1") for number in range(61)}, [False] * 61),
    ],
)
def test_what_is_long_is_closed(repositories: dict[str, Repository], opened: list[bool]) -> None:
    assert Reader(page(of(repositories)).decode()).opened == opened


def test_of_many_tags_the_highest_are_there_and_a_link_to_all() -> None:
    few = tagged("1", "2")
    many = Repository(tags={f"1.{number}": entry("x") for number in range(7000)})
    text = made(few=few, **{"a-many": many})
    rows = commands(text)

    assert len(rows) == MOST_ROWS
    assert rows[0] == "docker pull HOST/a-many:1.6999"
    assert rows[-2:] == ["docker pull HOST/few:2", "docker pull HOST/few:1"]
    assert "And 2,002 more" in text
    assert "v2/a-many/tags/list" in Reader(text).links
    assert "2 repositories, 7,002 images" in Reader(text).texts["header"][0]
    assert len(text) < 3 * MIB


def test_of_very_many_repositories_the_first_are_there_and_a_link_to_all() -> None:
    text = page(of({f"r{number:05}": tagged("1", "2") for number in range(MOST_ROWS + 3)})).decode()

    assert len(commands(text)) == MOST_ROWS
    assert "And 3 repositories more" in text


@given(st.lists(st.integers(1, 2 * MOST_ROWS), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_rows_are_shared_out_fairly_and_none_is_left_unused(counts: list[int]) -> None:
    most = _fair(counts)
    shown = sum(min(count, most) for count in counts)

    assert shown <= MOST_ROWS
    assert shown == sum(counts) or shown + sum(count > most for count in counts) > MOST_ROWS


def test_what_comes_from_images_is_escaped() -> None:
    evil = "linux/<script>alert(1)</script>&\"'"
    text = made(app=Repository(tags={"v1": entry("one", MIB, platforms=(evil,))}))

    assert text.count("<script>") == 1
    assert evil in Reader(text).texts[".head"][0]


def test_only_so_many_platforms_are_named() -> None:
    names = tuple(f"linux/a{number}" for number in range(MOST_PLATFORMS + 3))
    head = Reader(made(app=Repository(tags={"v1": entry("one", platforms=names)}))).texts[".head"][0]

    assert f"linux/a{MOST_PLATFORMS - 1} and 3 more" in head


def test_the_same_state_makes_the_same_page_whatever_its_order() -> None:
    assert made(a=tagged("1", "2"), b=tagged("1")) == made(b=tagged("1"), a=tagged("2", "1"))


def test_the_page_refers_to_nothing_elsewhere() -> None:
    text = made(app=tagged("v1"))

    assert set(Reader(text).links) == {"data:,", "v2/_catalog"}
    assert re.search(r"https?://|//[a-z]|@import|url\(", text) is None
    assert "default-src 'none'" in text


def colours(text: str) -> list[dict[str, str]]:
    """Of the light page and of the dark one."""
    return [
        dict(re.findall(r"--(\w+): (#[0-9a-f]+)", block)) for block in re.findall(r":root {(.*?)}", text, re.DOTALL)
    ]


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(theme: int) -> None:
    known: Any = colours(made())[theme]
    ratios = {
        (ink, back): contrast(known[ink], known[back])
        for ink in ("ink", "soft", "accent", "good")
        for back in ("back", "card", "tint")
    }

    assert min(ratios.values()) >= 4.5, ratios
