"""A repository that somebody may not see is answered as one that is not there, and is not looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.spec.access_requests import FAMILIES, expected
from tests.spec.access_world import HAND_MADE, MISSING, ONLY_IN, SETS, world
from tests.support.images import digest_of
from tests.unit.server.test_app import Answer


def answered(answer: Answer, name: str) -> tuple[int, dict[str, str], bytes]:
    kept = {key: value for key, value in answer.headers.items() if key not in ("x-request-id", "date")}
    kept.pop("content-length", None)  # Of a body that has the name in it.
    return (
        answer.status,
        {key: value.replace(name, "NAME") for key, value in kept.items()},
        answer.body.replace(name.encode(), b"NAME"),
    )


@pytest.mark.parametrize("rules", ["hand made", "shut", "open to alice"])
async def test_a_denied_repository_is_answered_as_one_that_is_not_there_and_nothing_is_asked_of_the_store(
    tmp_path: Path, rules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, SETS[rules]) as found:
        asked: list[str] = []
        call = found.store._call

        async def counting(operation: str, *args: Any, **options: Any) -> Any:
            asked.append(operation)
            return await call(operation, *args, **options)

        monkeypatch.setattr(found.store, "_call", counting)
        there, compared = "secret/vault", 0
        for credentials in found.credentials:
            headers = found.headers[credentials.label]
            for family in FAMILIES.values():
                for case, other in zip(family(there), family(MISSING), strict=False):
                    if case.label != other.label or "of what is there" in case.label:
                        continue
                    _, code = expected(found.oracle, credentials, case, there)
                    if code is None or found.oracle.may(credentials.who, case.needs, there):
                        continue
                    if found.oracle.may(credentials.who, case.needs, MISSING):
                        continue
                    asked.clear()
                    pair = [
                        await found.app.ask(each.method, each.target, {**headers, **each.headers}, each.body)
                        for each in (case, other)
                    ]
                    assert answered(pair[0], there) == answered(pair[1], MISSING), (credentials.label, case.label)
                    assert asked == [], (credentials.label, case.label)
                    compared += 1
        assert compared > 300


async def test_a_source_that_may_not_be_pulled_from_is_not_looked_at_by_a_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, HAND_MADE) as found:
        asked: list[str] = []
        call = found.store._call

        async def counting(operation: str, *args: Any, **options: Any) -> Any:
            asked.append(operation)
            return await call(operation, *args, **options)

        monkeypatch.setattr(found.store, "_call", counting)
        digest = digest_of(ONLY_IN["secret/vault"])
        for source in ("&from=secret/vault", "&from=secret/nil", ""):
            target = f"/v2/team/app/blobs/uploads/?mount={digest}{source}"
            answer = await found.app.ask("POST", target, found.headers["alice basic"])
            assert answer.status == 202
            assert asked == [], source
        body = msgspec.json.encode({"digest": digest, "size": 180})
        counts = []
        for wanted in (body, body.replace(digest.encode(), b"sha256:" + b"0" * 64)):
            asked.clear()
            answer = await found.app.ask("POST", "/v2/team/app/_bucketry/uploads", found.headers["alice basic"], wanted)
            assert answer.status == 201
            counts.append(list(asked))
        assert counts[0] == counts[1]
