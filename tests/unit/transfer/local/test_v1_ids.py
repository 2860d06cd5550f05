"""The names of layers in what Docker 20.10 saves, against those that it gave."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.oci import Digest
from bucketry.transfer.local.v1_ids import V1Names, chain_ids

DIFF_IDS = tuple(
    Digest("sha256", hex_)
    for hex_ in (
        "2ecab442bbc62c9f0deac189214d4d1812e9ecda28a45569af0ca190b4830877",
        "4fac1732a1d3a7d500ae0d58dc6f2b20192f67f58284ef738601ba82d713e730",
        "e583bf366ee431c387f1da218bcd66e775e697642fca6ac7ec2e8f2e6446b9b9",
    )
)
NOTHING = (
    '{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,'
    '"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":%s,"Image":"","Volumes":null,"WorkingDir":"",'
    '"Entrypoint":null,"OnBuild":null,"Labels":%s}'
)
EMPTY = NOTHING % ("null", "null")
OF_IMAGE = NOTHING % ('["/srv/layer-0/data"]', '{"seed":"5"}')


@dataclass(frozen=True)
class Given:
    """An image's v1 ids as an engine gave them, and its documents, byte by byte."""

    ids: tuple[str, str, str]
    epoch: str

    @property
    def documents(self) -> dict[str, bytes]:
        first, second, last = self.ids
        created = f'"created":"{self.epoch}"'
        end = f'"container_config":{EMPTY},"os":"linux"}}'
        said = {
            first: f'{{"id":"{first}",{created},{end}',
            second: f'{{"id":"{second}","parent":"{first}",{created},{end}',
            last: f'{{"id":"{last}","parent":"{second}","created":"2020-01-01T00:00:00Z","container_config":{EMPTY},'
            f'"config":{OF_IMAGE},"architecture":"amd64","os":"linux"}}',
        }
        return {f"{id_}/json": text.encode() for id_, text in said.items()}


UTC = Given(
    (
        "03094fca44ec655e748f2e8f3ecc954050a3792b943ef51b91221bd9f1af299c",
        "868ae1fb8814b5fb4898a426135bc783f5c74cdc205d6e62c0940f14eb3f5f38",
        "3f4a1fd7cd7d5eddf2224f79a709d95b44f2b12ca4baa01436c0f9e51b12f380",
    ),
    "1970-01-01T00:00:00Z",
)
INDIA = Given(
    (
        "12038c4bcf11c7625610cb6423cbca48f55940ba4bcc89f411fff863a30f8498",
        "e217e0c8d8ca9f8b2934df0df351f411dd31e4185df40d427e0387b2a392fb2e",
        "d7d4dd0127b739ef45bb75070446e95e5979f9f8c2a3f71566a00187f959d711",
    ),
    "1970-01-01T05:30:00+05:30",
)
"""The engine's time zone was Asia/Kolkata."""


def told(given_: Given, order: list[int], documents: dict[str, bytes] | None = None) -> list[Digest | None]:
    """What the layers, which come in this ``order``, are found to be, in the image's order."""
    names, passed = V1Names(DIFF_IDS), {}
    found: list[Digest | None] = [None] * len(DIFF_IDS)
    for i in order:
        path = f"{given_.ids[i]}/json"
        passed[path] = (given_.documents if documents is None else documents)[path]
        found[i] = names.diff_id(f"{given_.ids[i]}/layer.tar", passed)
    return found


@pytest.mark.parametrize("engine", [UTC, INDIA])
@given(order=st.permutations(range(3)))
@settings(max_examples=6)
def test_the_names_that_an_engine_gave_say_which_layer_each_is(engine: Given, order: list[int]) -> None:
    assert told(engine, order) == list(DIFF_IDS)


def test_a_layer_alone_is_known() -> None:
    names = V1Names(DIFF_IDS[:1])
    # The name is that of the lowest of three. The only one of an image has nothing left out of its document.
    path = f"{UTC.ids[0]}/json"
    document = UTC.documents[path].replace(b',"os":"linux"', b"")
    assert names.diff_id(f"{UTC.ids[0]}/layer.tar", {path: document}) == DIFF_IDS[0]


@pytest.mark.parametrize("i", range(3))
def test_a_name_binds_its_layer_and_all_below(i: int) -> None:
    for changed in range(i + 1):
        other = [*DIFF_IDS]
        other[changed] = Digest.of(b"another layer")
        names = V1Names(other)
        assert names.diff_id(f"{UTC.ids[i]}/layer.tar", UTC.documents) is None


@pytest.mark.parametrize("i", range(3))
def test_a_document_that_was_changed_says_nothing(i: int) -> None:
    path = f"{UTC.ids[i]}/json"
    for old, new in ((b"1970", b"1971"), (b"2020", b"2021"), (b'"Tty":false', b'"Tty":true'), (b":null", b": null")):
        changed = {path: UTC.documents[path].replace(old, new)}
        if changed[path] != UTC.documents[path]:
            assert V1Names(DIFF_IDS).diff_id(f"{UTC.ids[i]}/layer.tar", changed) is None


@pytest.mark.parametrize(
    "path",
    [
        f"{UTC.ids[0]}.tar",
        f"{UTC.ids[0]}/json",
        f"{UTC.ids[0]}/layer.tar/",
        f"{UTC.ids[0]}/layer.tar\n",
        f"x/{UTC.ids[0]}/layer.tar",
        f"{UTC.ids[0].upper()}/layer.tar",
        f"{1:064x}/layer.tar",
        "layer.tar",
        "",
    ],
)
def test_another_name_says_nothing(path: str) -> None:
    names = V1Names(DIFF_IDS)
    assert names.diff_id(path, UTC.documents) is None
    assert names.diff_id(f"{UTC.ids[1]}/layer.tar", UTC.documents) == DIFF_IDS[1]


def test_an_image_whose_layers_are_not_known_says_nothing() -> None:
    assert V1Names(()).diff_id(f"{UTC.ids[0]}/layer.tar", UTC.documents) is None


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"null",
        b'{"id":',
        b'{"\xff":1}',
        b'{"a":' + b"[" * 100_000,
        b'{"parent":7,"a":1}',
        b'{"parent":"\xff"}',
        b'{"parent":"x"}',
        b'{"\\udc00":1}',
    ],
)
def test_a_document_that_cannot_be_read_says_nothing(document: bytes) -> None:
    path = f"{UTC.ids[0]}/json"
    assert V1Names(DIFF_IDS).diff_id(path.replace("json", "layer.tar"), {path: document}) is None


@given(st.binary(max_size=60), st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)))
@settings(max_examples=50)
def test_whatever_a_document_is_it_does_no_harm(data: bytes, value: object) -> None:
    path = f"{UTC.ids[0]}/json"
    for document in (data, json.dumps({"created": value, "parent": value, "x": value}).encode()):
        assert V1Names(DIFF_IDS).diff_id(path.replace("json", "layer.tar"), {path: document}) is None


def test_a_chain_id_is_the_digest_of_the_chain_below_and_the_layer() -> None:
    first, second, third = chain_ids(DIFF_IDS)
    assert first == DIFF_IDS[0]
    assert second == Digest.of(f"{DIFF_IDS[0]} {DIFF_IDS[1]}".encode())
    assert third == Digest.of(f"{second} {DIFF_IDS[2]}".encode())
