"""The files for web servers: complete, the same everywhere, and in step with the paths and headers of a site."""

from __future__ import annotations

import re

import msgspec
import pytest

from bucketry.oci import media_types
from bucketry.store.site import Served
from bucketry.transfer import wire
from bucketry.transfer.site import paths
from bucketry.transfer.site.pages import pages_for
from bucketry.transfer.site.snippets import caddyfile, nginx
from bucketry.transfer.site.state import State

EMPTY = State(format=1, created=0.0, nonce="n")


@pytest.mark.parametrize("text", [nginx(), caddyfile()], ids=["nginx", "caddy"])
def test_every_kind_of_manifest_is_looked_for_and_has_its_media_type(text: str) -> None:
    for media_type, kind in paths.KINDS.items():
        assert re.search(rf"\.{kind}\b", text), kind
        assert re.search(rf"{re.escape(media_type)}( {kind};|\n)", text), kind


@pytest.mark.parametrize("text", [nginx(), caddyfile()], ids=["nginx", "caddy"])
def test_caching_is_what_a_bucket_would_say(text: str) -> None:
    assert f'"{paths.of_digest("x").cache_control}"' in text
    assert f'"{paths.changing("x").cache_control}"' in text
    assert media_types.OCI_INDEX in text


@pytest.mark.parametrize("text", [nginx(), caddyfile()], ids=["nginx", "caddy"])
def test_what_is_beside_the_images_is_hidden(text: str) -> None:
    for name in (paths.STATE, paths.NGINX, paths.CADDY):
        assert name in text.replace("\\", "")


def test_braces_are_in_pairs() -> None:
    for text in (nginx(), caddyfile()):
        bare = re.sub(r'"[^"]*"|`[^`]*`|\'[^\']*\'|^\s*#.*$', "", text, flags=re.MULTILINE)
        assert bare.count("{") == bare.count("}") > 10


def test_a_folder_gets_the_files_for_servers_and_a_bucket_none_of_them() -> None:
    folder = {page.path: page for page in pages_for(keeps_headers=False)(EMPTY)}
    bucket = {page.path: page for page in pages_for(keeps_headers=True)(EMPTY)}

    assert set(folder) == {paths.PAGE, paths.DISCOVER, paths.NGINX, paths.CADDY}
    assert bucket == {path: folder[path] for path in (paths.PAGE, paths.DISCOVER)}
    told = msgspec.json.decode(bucket[paths.DISCOVER].body, type=wire.Extensions)
    assert [extension.endpoints for extension in told.extensions] == [(wire.CHECKPOINTS,)]
    assert folder[paths.NGINX].body == nginx().encode()
    assert folder[paths.CADDY].body == caddyfile().encode()
    assert paths.changing(bucket[paths.PAGE].content_type) == Served("text/html; charset=utf-8", paths.SHORTLY)
