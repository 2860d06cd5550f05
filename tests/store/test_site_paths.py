"""Which paths a site has, and how files are cut into parts: for all of them."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.store.site_suite import BLOB, paths_of

from bucketry.store.contract import MAX_PARTS, InvalidPart, NotFound, StoreError
from bucketry.store.site import PathTaken, check_path, check_prefix, is_path
from bucketry.store.site_folder import FolderSite
from bucketry.store.site_parts import MAX_PART, Cut, cut

ALLOWED = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~:@-")

segments = st.text("aB1._~:@-^ \\%ä\n\0/", max_size=5) | st.sampled_from(
    [".", "..", ".bucketry-tmp", "", "~", "sha256:0"]
)
texts = st.lists(segments, max_size=5).map("/".join)
names = st.text("ab.~:@", min_size=1, max_size=2).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


@given(texts)
@example("a" * 900)
@example("a" * 901)
@example("a/.bucketry-x")
@example("a.bucketry-x")
def test_paths_are_what_the_contract_says(text: str) -> None:
    parts = text.split("/")
    wanted = (
        1 <= len(text) <= 900
        and all(part and set(part) <= ALLOWED and part not in (".", "..") for part in parts)
        and not any(part.startswith(".bucketry-") for part in parts)
    )
    assert is_path(text) is wanted
    for check, given_ in ((check_path, text), (check_prefix, f"{text}/")):
        if wanted:
            check(given_)
        else:
            with pytest.raises(ValueError):
                check(given_)


@given(texts.filter(lambda text: not is_path(text)))
@settings(max_examples=60)
def test_what_is_no_path_touches_nothing(text: str) -> None:
    async def run(root: Path) -> None:
        site = FolderSite(root / "site")
        for call in (
            site.put(text, b"x", served=BLOB),
            site.begin(text, size=1, served=BLOB),
            site.get(text),
            site.head(text),
            site.copy(text, "a", size=1, served=BLOB),
            site.copy("a", text, size=1, served=BLOB),
            site.twin("a", text),
            site.delete_many([text]),
        ):
            with pytest.raises(ValueError):
                await call
        await site.close()

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(run(Path(name)))
        assert os.listdir(name) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "copy", "parts"]), paths, st.binary(max_size=4))
        | st.tuples(st.just("delete"), paths, st.just(b"")),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_a_folder_is_a_map_of_paths_to_files(steps: list[tuple[str, str, bytes]]) -> None:
    """But that none is below another; and no folder is there without a file in it."""

    async def run(root: Path) -> None:
        site = FolderSite(root, fsync=False)
        model: dict[str, bytes] = {}

        async def write(how: str, path: str, body: bytes) -> None:
            if how == "put":
                await site.put(path, body, served=BLOB)
            elif how == "copy":
                await site.put("source", body, served=BLOB)
                assert await site.copy("source", path, size=len(body), served=BLOB)
            else:
                upload = await site.begin(path, size=len(body), served=BLOB, part_size=2)
                try:
                    for number, at in enumerate(range(0, len(body), 2), start=1):
                        await upload.put(number, body[at : at + 2])
                    await upload.complete()
                finally:
                    await upload.abort()

        for how, path, body in steps:
            if how == "delete":
                await site.delete_many([path])
                model.pop(path, None)
                continue
            if how == "copy":
                model["source"] = body
            taken = any(path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in model)
            if taken:
                with pytest.raises(PathTaken):
                    await write(how, path, body)
            else:
                await write(how, path, body)
                model[path] = body
        assert {path: (await site.get(path)).body for path in await paths_of(site)} == model
        for path in model:
            with pytest.raises(NotFound):
                await site.head(f"{path}/below")
        for folder, folders, found in os.walk(root):
            assert folders or found or Path(folder).name.startswith(".bucketry-") or folder == str(root)
        await site.close()
        if root.exists():
            assert os.listdir(root / ".bucketry-tmp") == []

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(run(Path(name) / "site"))


@given(
    st.integers(0, MAX_PARTS * MAX_PART),
    st.none() | st.integers(1, 2**34),
    st.sampled_from([1, 5 * 1024**2, 8 * 1024**2]),
)
def test_every_file_is_cut_into_parts_that_are_not_too_many(size: int, wish: int | None, least: int) -> None:
    parts = cut(size, wish, least=least)
    assert 1 <= parts.count <= MAX_PARTS
    assert least <= parts.part_size <= MAX_PART
    assert (parts.count - 1) * parts.part_size + parts.length(parts.count) == size
    assert size == 0 or 0 < parts.length(parts.count) <= parts.length(1)
    if wish is not None and least <= wish <= MAX_PART and wish * MAX_PARTS >= size:
        assert parts.part_size == wish


def test_what_no_parts_can_hold_is_refused() -> None:
    assert cut(MAX_PART * MAX_PARTS, None, least=1).part_size == MAX_PART
    with pytest.raises(StoreError, match="larger than 10,000 parts"):
        cut(MAX_PART * MAX_PARTS + 1, None, least=1)


def test_parts_that_are_missing_are_counted() -> None:
    parts = Cut(10, 4)
    parts.require_all({1, 2, 3}, "x")
    with pytest.raises(InvalidPart, match="x: 2 of its 3 parts were not put"):
        parts.require_all({2}, "x")
    with pytest.raises(ValueError):
        cut(-1, None, least=1)
