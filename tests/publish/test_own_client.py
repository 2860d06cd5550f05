"""bucketry's own client reads a published site: over http, from the bucket by its credentials, from the folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.publish.conftest import Sites
from tests.publish.content import BIG, MULTI
from tests.publish.layouts import assert_in_layout
from tests.store.seaweed import Seaweed
from tests.support.images import MIB, blob_path
from tests.support.moving import Mover, mover
from tests.support.tls import Tls
from tests.support.tools import run

WAYS = ["nginx", "nginx tls", "caddy tls", "bucket", "bucket tls", "s3", "file"]
ways = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def reader(tmp_path: Path, bucket: Seaweed, tls: Tls) -> Mover:
    """Who has nothing yet."""
    return mover(tmp_path / "reader", SSL_CERT_FILE=str(tls.authority), **bucket.environ())


def root(sites: Sites, way: str) -> str:
    """What stands before an image's name."""
    match way:
        case "s3":
            return f"s3://{sites.bucket.bucket}//"
        case "file":
            return f"file:{sites.folder}//"
        case _:
            return f"{sites.places[way].url}/"


@ways
def test_all_is_pulled_byte_by_byte(way: str, sites: Sites, reader: Mover, tmp_path: Path) -> None:
    for number, item in enumerate(sites.content.items.values()):
        layout = tmp_path / str(number)
        name = item.pinned if number % 2 else item.name
        outcome = reader("pull", f"{root(sites, way)}{name}", f"oci:{layout}:x", "--all-platforms")
        assert outcome.digest == item.digest
        assert_in_layout(layout, item)


@ways
def test_a_large_layer_is_pulled_in_pieces(way: str, sites: Sites, reader: Mover, tmp_path: Path) -> None:
    """Each of them verified as it lands, which takes the checkpoints that were published beside the blob."""
    item = sites.content.items[BIG]
    options = ("--parallel=3", "--part-size=8MiB")
    outcome = reader("pull", f"{root(sites, way)}{item.name}", f"oci:{tmp_path / 'big'}:x", *options)
    assert outcome.digest == item.digest
    assert outcome.ended["parallel"] == 3
    assert not outcome.notes
    if way.startswith("nginx"):
        (layer,) = (entry for entry in item.image["layers"] if entry["size"] > MIB)
        asked = sites.access.read_text()
        assert f"GET /v2/{BIG}/_bucketry/checkpoints/{layer['digest']} " in asked
        assert asked.count(f'GET /v2/{BIG}/blobs/{layer["digest"]} HTTP/1.1" 206') >= 3
    assert_in_layout(tmp_path / "big", item)


@ways
def test_an_index_is_shown(way: str, sites: Sites, reader: Mover) -> None:
    item = sites.content.items[MULTI]
    command: list[str | Path] = [Path(sys.executable).parent / "bucketry", "inspect", f"{root(sites, way)}{item.name}"]
    assert run([*command, "--raw"], env=reader.env).encode() == item.manifest
    told = json.loads(run([*command, "--json"], env=reader.env))
    assert told["digest"] == item.digest


@ways
def test_an_image_is_copied_with_its_referrers(way: str, sites: Sites, reader: Mover, tmp_path: Path) -> None:
    item = sites.content.items[MULTI]
    store = f"file:{tmp_path / 'store'}//copied"
    outcome = reader("copy", f"{root(sites, way)}{item.name}", f"{store}:x", "--referrers")
    assert outcome.digest == item.digest
    layout = tmp_path / "layout"
    reader("pull", f"{store}:x", f"oci:{layout}:x", "--all-platforms", "--referrers")
    assert_in_layout(layout, item)
    for digest, note in sites.content.notes.items():
        (attached,) = json.loads(blob_path(layout, digest).read_bytes())["layers"]
        assert blob_path(layout, attached["digest"]).read_bytes() == note
