"""Credentials that are wrong: every part of a real token changed, tokens that others signed, and what is none at all.

What is secret has `CANARY` in it, or is one of `Forger.secrets`: the server may write it nowhere.
"""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.spec.fuzz_json import json_bytes
from tests.spec.fuzz_requests import Keys
from tests.support.access import basic
from tests.unit.server.auth.forging import EC, ED, b64, forged, hmac_with, jwk, signer, unb64

from bucketry.access import make_token

CANARY: Final = "cAnArY"
ISSUER: Final = "https://issuer.example/realm"
_KIDS: Final[tuple[Any, ...]] = (
    "",
    "k2",
    "../keys",
    "/dev/null",
    "' OR 1=1",
    "\0",
    "x" * 300,
    "x" * 3000,
    None,
    1,
    [],
    {},
    True,
    "k1\n",
)
_ALGORITHMS: Final[tuple[Any, ...]] = (
    "none",
    "None",
    "",
    "HS256",
    "RS256",
    "ES256",
    "PS256",
    "Ed25519",
    "EdDSA ",
    None,
    [],
    1,
    "RSA-OAEP",
)
_SCHEMES: Final = (
    "Basic",
    "basic",
    "BASIC",
    "Bearer",
    "BEARER",
    "Digest",
    "Negotiate",
    "",
    "Token",
    "Basic:",
    "Bearer\t",
)


@dataclass(slots=True)
class Forger:
    """``registry_token`` is one that the registry gave out, ``registry_key`` what it signs with."""

    keys: Keys
    registry_token: str
    registry_key: Ed25519PrivateKey

    def __post_init__(self) -> None:
        header, payload, _ = self.registry_token.split(".")
        self._header: dict[str, Any] = json.loads(unb64(header))
        self._payload: dict[str, Any] = json.loads(unb64(payload))

    _header: Any = None
    _payload: Any = None

    def header(self, source: random.Random) -> str:
        """The value of an Authorization header."""
        ways: tuple[tuple[float, Callable[[random.Random], str]], ...] = (
            (3, self._cut),
            (3, self._claims),
            (2, self._signed_header),
            (2, self._job),
            (1, self._robot),
            (1, self._shape),
            (0.3, self._password),
        )
        way = source.choices([each for _, each in ways], [weight for weight, _ in ways])[0]
        return way(source)

    def _sent(self, source: random.Random, token: str) -> str:
        """As a bearer token, or as the password of somebody."""
        if source.random() < 0.7:
            return f"{source.choice(('Bearer', 'Bearer', 'bearer', 'Bearer '))} {token}"
        return basic(source.choice(("x", "carol", f"{CANARY}-name", "")), token)

    def _cut(self, source: random.Random) -> str:
        """A real token, some of whose characters are others."""
        parts = source.choice((self.registry_token, self.keys.id_token)).split(".")
        at = source.randrange(3)
        text = parts[at]
        where = source.randrange(len(text))
        match source.randrange(9):
            case 0:
                parts[at] = text[:where]
            case 1:
                parts[at] = text[:where] + source.choice("A-_=+/ %.\xff") + text[where + 1 :]
            case 2:
                parts[at] = text + source.choice(("=", "==", "A", ".", "\x85"))
            case 3:
                parts.insert(at, source.choice(("", "e30", text)))
            case 4:
                del parts[at]
            case 5:
                parts[at] = ""
            case 6:
                parts[at] = b64(source.randbytes(source.choice((1, 64, 256))))
            case 7:
                parts[at] = text * source.choice((2, 30))
            case _:
                source.shuffle(parts)
        return self._sent(source, ".".join(parts))

    def _claims(self, source: random.Random) -> str:
        """Signed by the registry's own key, or the issuer's, with claims that nobody would write."""
        if source.random() < 0.5:
            body = json_bytes(source, self._payload)
            token = forged(self._header, body or b"{}", signer(self.registry_key))
        else:
            body = json_bytes(source, claims(mark=f"{CANARY}-claim"))
            token = forged({"alg": "EdDSA", "kid": "k2", "typ": "JWT"}, body or b"{}", signer(ED))
        return self._sent(source, token)

    def _signed_header(self, source: random.Random) -> str:
        """Signed by another, with a header that tries to be taken for the right one's."""
        mine = jwk(ED, self._header["kid"])
        extra: Mapping[str, Any] = source.choice(
            (
                *({"jwk": mine}, {"jku": "https://evil.example/k"}, {"x5u": "file:///etc/passwd"}, {"x5c": ["AAAA"]}),
                *({"crit": ["b64"], "b64": False}, {"zip": "DEF"}, {"cty": "JWT"}, {"enc": "A128GCM"}, {"typ": None}),
                *({"kid": source.choice(_KIDS)}, {"alg": source.choice(_ALGORITHMS)}, {"x" * 3000: 1}, {"p2c": 10**9}),
            )
        )
        sign = source.choice((signer(ED), signer(EC), hmac_with(b""), hmac_with(CANARY.encode()), lambda _: b"\0" * 64))
        head: object = {**self._header, **extra}
        if source.random() < 0.3:
            head = json_bytes(source, head) or b"{}"
        payload = source.choice((self._payload, claims(mark=f"{CANARY}-claim")))
        return self._sent(source, forged(head, payload, sign))

    def _job(self, source: random.Random) -> str:
        """An ID token that is right but for one claim."""
        now = time.time()
        odd: Mapping[str, Any] = source.choice(
            (
                *({"exp": now - 100}, {"exp": now + 10**7}, {"iat": now + 1000}, {"nbf": now + 1000}, {"iat": "now"}),
                *(
                    {"exp": 2**63},
                    {"exp": True},
                    {"exp": 1e300},
                    {"iat": -1},
                    {"exp": [now]},
                    {"aud": []},
                    {"aud": ["me"]},
                ),
                *({"aud": ["other"] * 200}, {"aud": {"me": 1}}, {"iss": f"{ISSUER}/"}, {"iss": [ISSUER]}, {"sub": ""}),
                *(
                    {"sub": "x" * 2000},
                    {"sub": ["x"]},
                    {"sub": "a\nb"},
                    {"sub": "\u202e"},
                    {"ref": ["refs/heads/main"]},
                ),
                *({"ref": {"a": {"b": "c"}}}, {"ref": "x" * 9000}, {"ref": None}, {str(n): n for n in range(300)}),
                *(
                    {"sub": f"{source.randrange(50)}"},
                    {"nested": {"a": {"b": [1, {"c": "d"}]}}},
                    {"a.b": "c", "a": {"b": 1}},
                ),
            )
        )
        payload = {**claims(mark=f"{CANARY}-claim"), **odd}
        return self._sent(source, forged({"alg": "EdDSA", "kid": "k2"}, payload, signer(ED)))

    def _robot(self, source: random.Random) -> str:
        robot, at = self.keys.robot, source.randrange(len(self.keys.robot))
        token = source.choice(
            (
                *(
                    robot[:at],
                    robot[:at] + "0" + robot[at + 1 :],
                    robot.upper(),
                    robot + "0",
                    f"{robot}\x00",
                    "bktr_",
                    "bktr___",
                ),
                *(make_token("ci", source.randbytes(32)), make_token("nobody", source.randbytes(32)), "bktr_\xff_x_y"),
                *("bktr_../../x_" + robot[8:], robot.replace("_ci_", "_a/b_"), robot * 20),
            )
        )
        return self._sent(source, token)

    def _shape(self, source: random.Random) -> str:
        """What may be no credentials at all."""
        text = source.choice(
            (
                *(
                    "",
                    " ",
                    ":",
                    "x",
                    "=",
                    "eyJ",
                    "eyJ.eyJ.",
                    "Og==",
                    "\xff\xfe",
                    "a:b",
                    "a" * 9000,
                    "AAAA AAAA",
                    "%00",
                    ",",
                ),
                *(
                    b64(b"\0:\0"),
                    b64(b"\xff\xff:x"),
                    base64.b64encode(b"nocolon").decode(),
                    base64.b64encode(b":").decode(),
                ),
                *("eyJ" + "A" * 16_380, b64(b'{"alg":"none"}') + ".e30.", 'username="a", realm="b", nonce="c"'),
            )
        )
        return f"{source.choice(_SCHEMES)} {text}".rstrip("\t")

    def _password(self, source: random.Random) -> str:
        """They cost the server a slow hash each, until it makes whoever tries them wait."""
        name = source.choice(("alice", "nobody", f"{CANARY}-typed-here", "a" * 300, "é", "\x00", "root"))
        return basic(name, source.choice((f"{CANARY}-guess", "", "x" * 1025, "\0", "x" * 5000, "ＡＢ")))


def claims(*, mark: str, subject: str = "repo:acme/app:ref:refs/heads/main") -> dict[str, Any]:
    """Of a job that may push to ``fuzz/ci``. ``mark``: something in them that is nobody's business."""
    now = int(time.time())
    times = {"iat": now, "nbf": now, "exp": now + 3 * 3600}
    return {"iss": ISSUER, "aud": "me", "sub": subject, **times, "ref": "refs/heads/main", "email": mark}
