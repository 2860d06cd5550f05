from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.helpers import NOW, CountedIds, FakeClock, memory_store
from tests.unit.server.auth.forging import EC, ED, RSA, b64, forged, hmac_with, jwk, signed, signer, unb64

from bucketry.access.actions import Action
from bucketry.access.principal import ANONYMOUS, Method, Principal
from bucketry.access.scopes import Scope
from bucketry.registry import layout
from bucketry.registry.access_keys import DAY, LEAST_INTERVAL, REFRESH, SIGNING, AccessKey, AccessKeys
from bucketry.server.auth import jose
from bucketry.server.auth.errors import Reason, TokenRefused
from bucketry.server.auth.tokens import LEEWAY, LIFE, LONGEST_LIFE, TokenClaims, Tokens
from bucketry.store.contract import ListPage
from bucketry.store.memory import MemoryStore

ISSUER = "https://registry.example.com/token"
SERVICE = "registry.example.com"
ALICE = Principal("user", "alice", method=Method.PASSWORD)
PULL = (Scope("repository", "team/app", frozenset({Action.PULL, Action.PUSH})),)


class Replica:
    """A server's own view of the store that it shares."""

    def __init__(self, store: MemoryStore, clock: FakeClock, number: int = 1, **changes: Any) -> None:
        ids = CountedIds(number)
        self.keys = AccessKeys(store, clock=clock, ids=ids, token_life=LIFE, sleep=self._sleep)
        self.tokens = Tokens(self.keys, **{"issuer": ISSUER, "service": SERVICE, "clock": clock, "ids": ids, **changes})
        self._clock = clock

    async def _sleep(self, seconds: float) -> None:
        self._clock.advance(seconds)

    async def key(self) -> AccessKey:
        return await self.keys.signing()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return memory_store(clock)


@pytest.fixture
def replica(store: MemoryStore, clock: FakeClock) -> Replica:
    return Replica(store, clock)


def claims(**changes: Any) -> dict[str, Any]:
    """What a good token says, with changes; None leaves a claim out."""
    now = int(NOW)
    good: dict[str, Any] = {
        "iss": ISSUER, "aud": SERVICE, "sub": "user:alice", "method": "password", "access": [PULL[0].entry()],
        "iat": now, "nbf": now, "exp": now + 300, "jti": "1",
    }  # fmt: skip
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


async def refused(replica: Replica, token: str) -> Reason:
    with pytest.raises(TokenRefused) as caught:
        await replica.tokens.verify(token)
    message = str(caught.value)
    for part in token.split("."):
        assert len(part) < 12 or part not in message, "a message repeats the token"
    assert message.isascii()
    assert len(message) < 300
    return caught.value.reason


@pytest.mark.parametrize(
    "principal",
    [
        ANONYMOUS,
        ALICE,
        Principal("robot", "ci", method=Method.ROBOT_TOKEN),
        Principal("oidc", "github", {"sub": "repo:acme/app", "groups": ("a", "b")}, Method.ID_TOKEN),
        Principal("certificate", "CN=builder", method=Method.CERTIFICATE),
    ],
    ids=str,
)
async def test_a_token_says_who_how_and_what(replica: Replica, principal: Principal) -> None:
    scopes = (*PULL, Scope("registry", "catalog", frozenset({Action.CATALOG})))

    issued = await replica.tokens.issue(principal, scopes)
    said = await replica.tokens.verify(issued.token)

    assert said == TokenClaims(principal, scopes, issued.token_id, NOW, NOW + LIFE)
    assert said.principal.method == principal.method
    assert dict(said.principal.claims) == dict(principal.claims)
    assert (issued.issued, issued.lifetime) == (NOW, LIFE)


async def test_only_the_claims_that_are_asked_for_go_in(replica: Replica) -> None:
    principal = Principal("oidc", "github", {"ref": "refs/heads/main", "actor": "x" * 1000}, Method.ID_TOKEN)

    issued = await replica.tokens.issue(principal, PULL, claims={"ref", "sha"})

    assert (await replica.tokens.verify(issued.token)).principal.claims == {"ref": "refs/heads/main"}


async def test_push_in_a_token_is_not_overwrite(replica: Replica) -> None:
    issued = await replica.tokens.issue(ALICE, [Scope("repository", "a", frozenset({Action.PUSH}))])

    (scope,) = (await replica.tokens.verify(issued.token)).scopes

    assert scope.actions == {Action.PUSH}


async def test_two_replicas_over_one_store_take_each_others_tokens(store: MemoryStore, clock: FakeClock) -> None:
    replicas = [Replica(store, clock, number) for number in range(3)]

    issued = await asyncio.gather(*(one.tokens.issue(ALICE, PULL) for one in replicas))

    for token in issued:
        for one in replicas:
            assert (await one.tokens.verify(token.token)).principal == ALICE


async def test_tokens_of_the_old_key_are_taken_until_they_expire(store: MemoryStore, clock: FakeClock) -> None:
    one, other = Replica(store, clock, 1), Replica(store, clock, 2)
    await one.key()
    clock.advance(SIGNING)
    old = await one.tokens.issue(ALICE, PULL)
    clock.advance(1)
    new = await other.tokens.issue(ALICE, PULL)

    assert jose.take_apart(old.token).kid != jose.take_apart(new.token).kid
    for replica in (one, other):
        assert (await replica.tokens.verify(old.token)).principal == ALICE
        assert (await replica.tokens.verify(new.token)).principal == ALICE
    clock.advance(LIFE)
    assert await refused(one, old.token) is Reason.EXPIRED


async def test_a_deleted_key_ends_its_tokens_within_a_minute_remembered_ones_too(
    store: MemoryStore, clock: FakeClock
) -> None:
    one, other = Replica(store, clock, 1), Replica(store, clock, 2)
    issued = await one.tokens.issue(ALICE, PULL)
    assert (await other.tokens.verify(issued.token)).principal == ALICE
    await store.delete(layout.access_key((await one.key()).kid))

    clock.advance(REFRESH)

    assert await refused(other, issued.token) is Reason.KEY
    assert await refused(one, issued.token) is Reason.KEY


async def test_the_key_that_follows_a_deleted_one_is_known_at_once_and_ends_what_that_signed(
    store: MemoryStore, clock: FakeClock
) -> None:
    """It is the same day's, so it has the same id."""
    one = Replica(store, clock, 1)
    old = await one.tokens.issue(ALICE, PULL)
    assert (await one.tokens.verify(old.token)).principal == ALICE
    await store.delete(layout.access_key((await one.key()).kid))
    other = Replica(store, clock, 2)
    new = await other.tokens.issue(ALICE, PULL)
    assert jose.take_apart(old.token).kid == jose.take_apart(new.token).kid

    clock.advance(0.1)
    assert (await one.tokens.verify(new.token)).principal == ALICE

    assert await refused(one, old.token) is Reason.SIGNATURE


class Listed(MemoryStore):
    """When it was listed, by a clock."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock.now)
        self.times: list[float] = []
        self._ticks = clock

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        self.times.append(self._ticks.monotonic())
        return await super().list(prefix, after=after, limit=limit)


async def test_forged_signatures_cost_one_listing_a_second(clock: FakeClock) -> None:
    store = Listed(clock)
    replica = Replica(store, clock)
    header, payload, _ = (await replica.tokens.issue(ALICE, PULL)).token.split(".")
    made = len(store.times)
    for number in range(5):
        clock.advance(0.1)
        assert await refused(replica, f"{header}.{payload}.{b64(bytes([number]) * 64)}") is Reason.SIGNATURE
    asked = store.times[made:]
    assert len(asked) == 5
    assert all(later - earlier >= LEAST_INTERVAL for earlier, later in itertools.pairwise(asked))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": int(NOW)}, Reason.EXPIRED),
        ({"exp": int(NOW) - 1}, Reason.EXPIRED),
        ({"iat": int(NOW) - 7200, "nbf": int(NOW) - 7200, "exp": int(NOW) - 3600}, Reason.EXPIRED),
        ({"nbf": int(NOW + LEEWAY) + 1}, Reason.NOT_YET),
        ({"iat": int(NOW + LEEWAY) + 1}, Reason.NOT_YET),
        ({"exp": int(NOW + LONGEST_LIFE) + 1}, Reason.LIFETIME),
        ({"exp": 10**11}, Reason.LIFETIME),
        ({"exp": 10**400}, Reason.CLAIMS),
        ({"exp": "9999999999"}, Reason.CLAIMS),
        ({"exp": True}, Reason.CLAIMS),
        ({"exp": [int(NOW) + 60]}, Reason.CLAIMS),
        ({"exp": -1}, Reason.CLAIMS),
        ({"exp": None}, Reason.CLAIMS),
        ({"iat": None}, Reason.CLAIMS),
        ({"aud": "other.example.com"}, Reason.AUDIENCE),
        ({"aud": "Registry.example.com"}, Reason.AUDIENCE),
        ({"aud": "registry.example.com."}, Reason.AUDIENCE),
        ({"aud": []}, Reason.AUDIENCE),
        ({"aud": {"registry.example.com": 1}}, Reason.AUDIENCE),
        ({"aud": [["registry.example.com"]]}, Reason.AUDIENCE),
        ({"aud": None}, Reason.AUDIENCE),
        ({"iss": "https://evil.example.com/token"}, Reason.ISSUER),
        ({"iss": ISSUER + "/"}, Reason.ISSUER),
        ({"iss": [ISSUER]}, Reason.ISSUER),
        ({"iss": None}, Reason.ISSUER),
        ({"sub": None}, Reason.CLAIMS),
        ({"sub": ""}, Reason.CLAIMS),
        ({"sub": "root"}, Reason.CLAIMS),
        ({"sub": "user:аlice"}, Reason.CLAIMS),
        ({"sub": "group:admins"}, Reason.CLAIMS),
        ({"sub": "user:" + "a" * 300}, Reason.CLAIMS),
        ({"sub": {"user": "alice"}}, Reason.CLAIMS),
        ({"method": "magic"}, Reason.CLAIMS),
        ({"access": None}, Reason.CLAIMS),
        ({"access": "repository:team/app:pull"}, Reason.CLAIMS),
        ({"access": [{"type": "repository", "name": "a", "actions": ["*"]}]}, Reason.CLAIMS),
        ({"access": [{"type": "repository", "name": "a", "actions": "pull"}]}, Reason.CLAIMS),
        ({"access": [{"type": "other", "name": "a", "actions": ["pull"]}]}, Reason.CLAIMS),
        ({"access": [{"name": "a", "actions": ["pull"]}]}, Reason.CLAIMS),
        ({"access": [{"type": "repository", "name": "a", "actions": []}] * 101}, Reason.CLAIMS),
        ({"access": [{"type": "repository", "name": "a" * 256, "actions": ["pull"]}]}, Reason.CLAIMS),
        ({"claims": {"ref": "refs/heads/main"}}, Reason.CLAIMS),
        ({"jti": None}, Reason.CLAIMS),
    ],
    ids=str,
)
async def test_a_token_that_says_what_it_must_not_is_refused_though_our_key_signed_it(
    replica: Replica, changes: dict[str, Any], reason: Reason
) -> None:
    key = await replica.key()
    good = signed(key.private, claims(), kid=key.kid)
    assert (await replica.tokens.verify(good)).principal == ALICE

    assert await refused(replica, signed(key.private, claims(**changes), kid=key.kid)) is reason


async def test_none_of_the_keys_that_a_header_brings_along_is_used_cve_2025_24976(replica: Replica) -> None:
    kid = (await replica.key()).kid
    for own in (ED, EC, RSA):
        for smuggled in (
            {"jwk": jwk(own)},
            {"jku": "https://evil.example.com/jwks.json"},
            {"x5c": ["MIIB"]},
            {"x5u": "https://evil.example.com/cert.pem"},
            {"jwk": jwk(own), "x5c": ["MIIB"], "jku": "file:///etc/passwd"},
        ):
            await refused(replica, signed(own, claims(), kid=kid, **smuggled))
            await refused(replica, signed(own, claims(), kid=None, **smuggled))


async def test_a_good_token_with_a_header_beside_is_not_ours(replica: Replica) -> None:
    key = await replica.key()
    extras: tuple[dict[str, Any], ...] = (
        {"jwk": {}},
        {"crit": ["exp"]},
        {"b64": True},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"x": 1},
    )
    for extra in extras:
        assert await refused(replica, signed(key.private, claims(), kid=key.kid, **extra)) is Reason.MALFORMED


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, "HS256", "HS512", "ES256K", "PS256"])
async def test_no_algorithm_but_that_of_the_key_is_taken(replica: Replica, algorithm: str | None) -> None:
    key = await replica.key()
    header = {"alg": algorithm, "kid": key.kid, "typ": "JWT"}
    for sign in (signer(key.private), hmac_with(key.public.public_bytes_raw()), lambda message: b"\0"):
        assert await refused(replica, forged(header, claims(), sign)) is Reason.ALGORITHM
    unsigned = forged(header, claims(), lambda message: b"")
    assert await refused(replica, unsigned) is Reason.MALFORMED


async def test_the_public_key_as_a_shared_secret_signs_nothing(replica: Replica) -> None:
    key = await replica.key()
    forms = [
        key.public.public_bytes_raw(),
        key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(jwk(key.private)).encode(),
    ]
    for secret in forms:
        for algorithm in ("HS256", "EdDSA"):
            header = {"alg": algorithm, "kid": key.kid, "typ": "JWT"}
            reason = await refused(replica, forged(header, claims(), hmac_with(secret)))
            assert reason is (Reason.ALGORITHM if algorithm == "HS256" else Reason.SIGNATURE)


async def test_a_key_of_another_kind_under_our_id_is_refused(replica: Replica) -> None:
    kid = (await replica.key()).kid

    assert await refused(replica, signed(ED, claims(), kid=kid)) is Reason.SIGNATURE
    assert await refused(replica, signed(EC, claims(), kid=kid)) is Reason.MALFORMED
    assert await refused(replica, signed(RSA, claims(), kid=kid)) is Reason.MALFORMED


@pytest.mark.parametrize(
    "kid",
    ["", "..", "../../bucketry.json", "../access/keys/019675", "/etc/passwd", "019675/", "019675%00", "０19675",
     "0" * 257, "' or 1=1 --", 19675, None, ["019675"], {"kid": "019675"}],
)  # fmt: skip
async def test_a_key_id_is_six_digits_and_no_path(replica: Replica, store: MemoryStore, kid: object) -> None:
    key = await replica.key()
    header = {"alg": "EdDSA", "kid": kid, "typ": "JWT"}

    assert await refused(replica, forged(header, claims(), signer(key.private))) in (Reason.KEY, Reason.MALFORMED)


async def test_an_unknown_key_id_of_the_right_form_is_refused(replica: Replica) -> None:
    key = await replica.key()

    assert await refused(replica, signed(key.private, claims(), kid=f"{int(key.kid) - 1:06d}")) is Reason.KEY


async def test_a_changed_payload_is_refused_wherever_it_is_changed(replica: Replica) -> None:
    issued = await replica.tokens.issue(ALICE, PULL)
    header, payload, signature = issued.token.split(".")
    changed = json.loads(unb64(payload)) | {"sub": "user:root"}
    assert await refused(replica, f"{header}.{b64(json.dumps(changed).encode())}.{signature}") is Reason.SIGNATURE

    for position in range(0, len(issued.token), 7):
        letter = issued.token[position]
        if letter == ".":
            continue
        for other in ("A", "B", "_", "é", " ", "="):
            if other != letter:
                await refused(replica, issued.token[:position] + other + issued.token[position + 1 :])
    assert (await replica.tokens.verify(issued.token)).principal == ALICE


@given(st.data())
async def test_no_change_of_a_token_is_taken(data: st.DataObject) -> None:
    clock = FakeClock()
    replica = Replica(memory_store(clock), clock)
    token = (await replica.tokens.issue(ALICE, PULL)).token
    position = data.draw(st.integers(0, len(token)))
    length = data.draw(st.integers(0, 3))
    changed = token[:position] + data.draw(st.text(max_size=4)) + token[position + length :]
    if changed != token:
        await refused(replica, changed)


async def test_one_token_has_one_text(replica: Replica) -> None:
    token = (await replica.tokens.issue(ALICE, PULL)).token
    header, payload, signature = token.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 64 bytes leave four bits over in the last character: other characters there say the same bytes.
    twin = signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ 1]
    assert unb64(twin) == unb64(signature)

    for other in (
        f"{header}.{payload}.{twin}", token + "=", token + "==", token + "\n", " " + token, token + ".",
        f"{header}.{payload}.{signature[:10]}\n{signature[10:]}", f"Bearer {token}", token.replace(".", "。"),
    ):  # fmt: skip
        assert await refused(replica, other) is Reason.MALFORMED


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"user:alice","sub":"user:root"}', b'{"access":[{"type":"a","type":"b"}]}', b"[]", b"null", b"1", b'""',
        b"{", b"", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"exp":NaN}', b'{"exp":Infinity}', b'{"exp":1e999}',
        b'{"sub":"\\ud800"}', b'{"a":' * 300 + b"1" + b"}" * 300, b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"a":-}',
    ],
    ids=lambda payload: payload[:24].decode("latin-1"),
)  # fmt: skip
async def test_json_that_can_be_read_in_two_ways_or_in_none_is_refused(replica: Replica, payload: bytes) -> None:
    key = await replica.key()
    header = {"alg": "EdDSA", "kid": key.kid, "typ": "JWT"}

    assert await refused(replica, forged(header, payload, signer(key.private))) is Reason.MALFORMED
    assert await refused(replica, forged(payload, claims(), signer(key.private))) is Reason.MALFORMED


async def test_huge_and_nested_tokens_are_refused_before_they_are_read(replica: Replica) -> None:
    key = await replica.key()
    for token, reason in (
        ("a" * 1024 * 1024, Reason.TOO_LARGE),
        ("." * 1024 * 1024, Reason.TOO_LARGE),
        (signed(key.private, claims(more="x" * 1024 * 1024), kid=key.kid), Reason.TOO_LARGE),
        (signed(key.private, claims(), kid=key.kid, more="x" * 5000), Reason.TOO_LARGE),
        (forged({"alg": "EdDSA"}, b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", signer(key.private)), Reason.TOO_LARGE),
        (signed(key.private, claims(more=[[[[[[[[[[1]]]]]]]]]]), kid=key.kid), Reason.MALFORMED),
        ("a.b.c.d.e", Reason.MALFORMED),
        ("..", Reason.MALFORMED),
        ("", Reason.MALFORMED),
        ("eyJ" * 100, Reason.MALFORMED),
    ):
        assert await refused(replica, token) is reason


async def test_a_refused_token_costs_no_look_into_the_store(store: MemoryStore, clock: FakeClock) -> None:
    maker = Replica(store, clock, 1)
    key = await maker.key()
    reader = Replica(store, clock, 2)

    await refused(reader, signed(key.private, claims(aud="other"), kid=key.kid))
    await refused(reader, signed(key.private, claims(exp=1), kid=key.kid))

    assert reader.keys.current(key.kid) is None


async def test_a_remembered_token_expires_like_any_other(replica: Replica, clock: FakeClock) -> None:
    issued = await replica.tokens.issue(ALICE, PULL)
    assert await replica.tokens.remembered(issued.token) is None
    first = await replica.tokens.verify(issued.token)
    assert await replica.tokens.remembered(issued.token) is first
    assert await replica.tokens.remembered(issued.token + "=") is None
    assert await replica.tokens.remembered("é") is None
    clock.advance(LIFE - 1)
    assert await replica.tokens.verify(issued.token) is first

    clock.advance(1)

    assert await replica.tokens.remembered(issued.token) is None
    assert await refused(replica, issued.token) is Reason.EXPIRED


async def test_what_is_remembered_is_bounded(store: MemoryStore, clock: FakeClock) -> None:
    replica = Replica(store, clock, cached=10)

    for _ in range(50):
        await replica.tokens.verify((await replica.tokens.issue(ALICE, PULL)).token)

    assert len(replica.tokens._cache) == 10


async def test_a_token_that_would_be_too_large_is_not_given_out(replica: Replica) -> None:
    scopes = [Scope("repository", f"{number:03d}" + "a" * 250, frozenset(Action)) for number in range(60)]
    for too_many in (scopes, [Scope("repository", "a", frozenset({Action.PULL}))] * 101):
        with pytest.raises(TokenRefused, match="fewer repositories") as caught:
            await replica.tokens.issue(ALICE, too_many)
        assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("life", [0, -1, LONGEST_LIFE + 1, DAY])
def test_tokens_live_a_second_to_an_hour(store: MemoryStore, clock: FakeClock, life: float) -> None:
    with pytest.raises(ValueError, match="lives 1 to 3600"):
        Replica(store, clock, life=life)


async def test_no_representation_shows_a_token(replica: Replica) -> None:
    issued = await replica.tokens.issue(ALICE, PULL)

    assert issued.token not in repr(issued)
    assert issued.token.split(".")[2] not in repr(jose.take_apart(issued.token))


@pytest.mark.parametrize("text", ["", "password", "eyJ", "eyJ.eyJ.x", "eyJhbGciOiJub25lIn0.e30.", "a.b.c"])
def test_a_password_is_not_taken_for_a_token(text: str) -> None:
    assert jose.issuer_of(text) is None


async def test_who_issued_a_token_is_told_before_it_is_verified(replica: Replica) -> None:
    assert jose.issuer_of((await replica.tokens.issue(ALICE, PULL)).token) == ISSUER
