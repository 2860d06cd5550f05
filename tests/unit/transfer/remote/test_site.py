"""A published site is read over http like a registry, wherever it is below its host."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from tests.unit.transfer.fakes import Image, settings
from tests.unit.transfer.remote.conftest import Known
from tests.unit.transfer.remote.scripted import Scripted

from bucketry.transfer.errors import ImageMissing, Misconfigured
from bucketry.transfer.names import parse_place
from bucketry.transfer.places import Opening, mountable, open_source
from bucketry.transfer.remote import Session


@pytest.mark.parametrize("folder", ["", "/some/folder"])
async def test_it_is_read_below_its_path(server: Scripted, tmp_path: Path, folder: str) -> None:
    image = Image(b"layer")
    # As a server of files has it that knows nothing of media types.
    server.on("GET", f"{folder}/v2/team/app/manifests/v1", lambda: web.Response(body=image.manifest.body))
    server.on("GET", f"{folder}/v2/team/app/tags/list", lambda: web.Response(body=b'{"name":"team/app","tags":["v1"]}'))
    name = f"http://{server.host}{folder}{'/' if folder else ''}/team/app:v1"
    opening = Opening(settings(tmp_path), home=tmp_path, environ={})
    source = await open_source(parse_place(name, role="pull from"), opening)

    assert await source.manifest() == image.manifest
    assert await source.tags() == ("v1",)
    assert source.name == name
    with pytest.raises(ImageMissing):
        await source.manifest("v2")
    await opening.close()


def test_plain_http_to_another_machine_is_to_be_allowed() -> None:
    with pytest.raises(Misconfigured, match="--insecure"):
        Session(Known()).site("cdn.example", plain=True, root="")
    assert Session(Known(), insecure=True).site("cdn.example", plain=True, root="").origin.scheme == "http"
    assert Session(Known(), insecure=True).site("cdn.example", plain=False, root="").origin.scheme == "https"


def test_nothing_is_mounted_from_a_site() -> None:
    target = parse_place("reg.example/mine:v1", role="copy to")
    assert mountable(parse_place("reg.example/app:v1", role="copy from"), target) == "app"
    assert mountable(parse_place("https://reg.example/app:v1", role="copy from"), target) is None
