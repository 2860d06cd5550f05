"""What is done to good requests: each class of mutation looks for another part of the server.

Text is in latin-1: a character is a byte on the wire.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from tests.spec.fuzz_credentials import Forger
from tests.spec.fuzz_json import json_bytes, written
from tests.spec.fuzz_requests import FORM, REPOSITORIES, TAGS, Draft, Grammar
from tests.spec.hostile import NAMES, REFERENCES, SESSIONS
from tests.support.api import ABSENT

# Paths and queries

_PIECES: Final = (
    *("", ".", "..", "%2e", "%2E%2e", "%2f", "%2F..%2F", "%5c", "%00", "%0a", "%0d%0aX-Evil:%201", "%7f", "~", "%"),
    *("%zz", "%c0%ae", "%ff%fe", "%ed%a0%80", "%f4%90%80%80", "%252e%252e", "%25%32%65", "%E2%80%AE", "%ef%bd%81"),
    *(
        "\xc3\xa9",
        "\xff",
        "\x80\x80",
        "%e2%84%aa",
        "A",
        "Z",
        "_",
        "__",
        "---",
        ".a",
        "a.",
        "*",
        "**",
        ";a=b",
        ":",
        "@",
        "&",
    ),
    *(
        "tags",
        "list",
        "manifests",
        "blobs",
        "uploads",
        "referrers",
        "_catalog",
        "_bucketry",
        "_oci",
        "v2",
        "v1",
        "token",
    ),
    *("$(id)", "{}", "|", "^", "`", "<script>", "'", '"', "\\", "+", ",", "=", "[", "]", "con", "\xa0", "\x85"),
)
_NUMBERS: Final = (
    *(
        "0",
        "-1",
        "1",
        "01",
        "+1",
        "1.0",
        "1e3",
        " 1",
        "1 ",
        "",
        "x",
        "\u0663".encode().decode("latin-1"),
        "%D9%A3",
        "NaN",
    ),
    *(
        "9" * 18,
        "9" * 19,
        "9" * 20,
        "9" * 400,
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "0x10",
        "1_0",
    ),
)


def _spoiled(source: random.Random, text: str) -> str:
    """Text with one thing in it changed."""
    at = source.randrange(len(text) + 1)
    way = source.randrange(8)
    if way == 0:
        return text[:at]
    if way == 1:
        return text.upper()
    if way == 2:
        return "".join(f"%{ord(char):02x}" if ord(char) < 256 else char for char in text)
    if way == 3:
        return text + text
    if way == 4 and source.random() < 0.05:
        return text + "a" * source.choice((130, 256, 5000, 31_000, 40_000))
    return text[:at] + source.choice(_PIECES) + text[at + source.randrange(2) :]


def paths(source: random.Random, draft: Draft, _: Grammar) -> None:
    segments = draft.path
    at = source.randrange(len(segments))
    match source.randrange(8):
        case 0:
            segments.insert(at, source.choice(_PIECES))
        case 1:
            segments[at] = source.choice(_PIECES)
        case 2:
            del segments[at]
        case 3:
            segments[at:at] = segments[at:][: source.choice((1, 2, 3))]
        case 4:
            draft.path = ["v2", *quote(source.choice(NAMES), safe="/%~:@;*").split("/"), *segments[-2:]]
        case 5:
            segments.reverse()
        case _:
            segments[at] = _spoiled(source, segments[at])
    if not draft.path:
        draft.path = [""]


def references(source: random.Random, draft: Draft, grammar: Grammar) -> None:
    algorithm, _, digits = source.choice(grammar.digests).partition(":")
    odd = (
        *(f"{algorithm}:{digits[:-1]}", f"{algorithm}:{digits}0", f"{algorithm}:{digits.upper()}", f"{digits}"),
        *(
            f"sha512:{digits}",
            f"sha512:{digits * 2}",
            f"md5:{digits[:32]}",
            f"sha384:{digits}{digits[:32]}",
            f":{digits}",
        ),
        *(f"{algorithm}%3A{digits}", f"{algorithm}:{digits}:{digits}", f"{algorithm}@{digits}", f"blake3:{digits}"),
        *(f"{algorithm.upper()}:{digits}", f"{algorithm}+b64:{digits}", f"{algorithm}:{digits[:32]}/{digits[32:]}"),
        *(
            TAGS[0].upper(),
            "." + TAGS[0],
            "-t",
            "a" * 128,
            "a" * 129,
            "latest@" + ABSENT,
            "v1:v2",
            ABSENT,
            "~t1",
            "t1~",
        ),
    )
    values = (*odd, *(quote(each, safe="%:~/*") for each in (*REFERENCES, *SESSIONS) if len(each) < 500))
    if (draft.path[-1] == "" and len(draft.path) > 1) or source.random() < 0.7 or len(draft.path) < 4:
        draft.path[-1] = source.choice(values)
    else:
        draft.path[source.randrange(2, len(draft.path))] = source.choice(values)


_NAMES: Final = (
    *("n", "last", "digest", "mount", "from", "tag", "artifactType", "scope", "service", "account", "offline_token"),
    *(
        "client_id",
        "digest-algorithm",
        "uuid",
        "_state",
        "next",
        "N",
        "Digest",
        "",
        "n%00",
        "%6e",
        "\xff",
        "tag[]",
        "size",
    ),
)


def queries(source: random.Random, draft: Draft, grammar: Grammar) -> None:
    values = (
        *_NUMBERS,
        *_PIECES,
        *(source.choice(REFERENCES) for _ in range(3)),
        *(source.choice(grammar.digests), *REPOSITORIES, *TAGS[:3], ABSENT, "sha512", "sha256", "md5", "bucketry"),
        *(
            "application/json",
            "fuzz/a/../b",
            "kept/app",
            "%F0%9F%98%80",
            "a" * source.choice((300, 3000)),
            grammar.scope(),
        ),
    )
    for _ in range(source.choice((1, 1, 2, 3))):
        name, value = source.choice(_NAMES), source.choice(values)
        if draft.query and source.random() < 0.6:
            at = source.randrange(len(draft.query))
            name = draft.query[at][0]
            draft.query[at] = (name, value if source.random() < 0.5 else _spoiled(source, draft.query[at][1]))
        else:
            draft.query.append((name, value))
    if source.random() < 0.02:
        draft.query *= source.choice((50, 200))
    draft.query = [(_sendable(name), _sendable(value)) for name, value in draft.query]


def _sendable(text: str) -> str:
    """What may stand in a request's target: what could end it is encoded."""
    return "".join(char if "!" <= char != "#" and ord(char) < 256 else quote(char) for char in text)


_SCOPES: Final = (
    *(
        "repository:fuzz/a:pull repository:kept/app:push",
        "repository:*:pull",
        "repository:**:*",
        "repository:fuzz/*:pull",
    ),
    *("registry:catalog:*", "registry:*:*", "registry:catalog:pull", "repository:Fuzz/A:pull", "repository:../a:pull"),
    *("repository:fuzz/a:pull,push,admin,overwrite", "repository:fuzz/a:*,admin", "repository(plugin):fuzz/a:pull"),
    *("repository::pull", "repository:fuzz/a:", "repository:fuzz/a", "::", ":::::", "repository:host:5000/a:pull", ""),
    *(
        "repository:fuzz/a:pull\trepository:kept/app:pull",
        "repository:fuzz/a:pull\x00",
        "aws:arn:x:y",
        "image:fuzz/a:pull",
    ),
    *("repository:fuzz/\u0430:pull", "repository:ｆuzz/a:pull", "REPOSITORY:fuzz/a:pull", "repository:fuzz/a:PULL"),
    *("repository:fuzz/a:pull%20", "openid profile", "repository:fuzz/a:pull,,push", " " * 300, "repository:a//b:pull"),
)


def scopes(source: random.Random, draft: Draft, grammar: Grammar) -> None:
    """Of the token service only."""
    draft.path, draft.document, draft.body, draft.name = ["token"], None, None, "token"
    one = source.choice((source.choice(_SCOPES), _spoiled(source, grammar.scope()), grammar.scope()))
    many = source.choice((1, 1, 1, 1, 2, 90, 101, 400)) if source.random() < 0.2 else 1
    pairs = [("scope", quote(one, safe=":/,*()%"))] * many
    if source.random() < 0.3:
        pairs = [("scope", "%20".join([pairs[0][1]] * source.choice((2, 40, 120))))]
    draft.headers = [] if source.random() < 0.4 else [("Authorization", source.choice(grammar.keys.readers))]
    if source.random() < 0.7:
        draft.method, draft.query, draft.fields = "GET", [("service", "bucketry"), *pairs], None
    else:
        draft.method, draft.query = "POST", []
        draft.headers.append(("Content-Type", FORM))
        draft.fields = [("grant_type", "password"), ("service", "bucketry"), *pairs]


def forms(source: random.Random, draft: Draft, grammar: Grammar) -> None:
    """Of the token service, by POST."""
    made = grammar.token_post()
    fields = made.fields or []
    at = source.randrange(len(fields))
    name, value = fields[at]
    match source.randrange(9):
        case 0:
            del fields[at]
        case 1:
            fields.append((name, source.choice(("", "x", value))))
        case 2:
            fields[at] = (name, source.choice(("", *_PIECES, *_NUMBERS)))
        case 3:
            fields[at] = ("grant_type", source.choice(("refresh_token", "authorization_code", "PASSWORD", "", "%00")))
        case 4:
            fields += [("a", "b")] * source.choice((10, 199, 300))
        case 5:
            fields.append(("password", "x" * source.choice((1000, 5000, 70_000))))
        case 6:
            made.set("Content-Type", source.choice(("", "text/plain", f"{FORM}; charset=utf-16", FORM.upper(), "\xff")))
        case 7:
            made.body = source.choice((b"&", b"=", b"%", b"a", b"\xff=\xfe", b"a=%ff", source.randbytes(50), b"{}"))
        case _:
            fields[at] = (_spoiled(source, name), _spoiled(source, value))
    _become(draft, made)


def _become(draft: Draft, other: Draft) -> None:
    for slot in Draft.__slots__:
        setattr(draft, slot, getattr(other, slot))


# Headers


def _range(source: random.Random) -> str:
    number = source.choice(_NUMBERS)
    other = source.choice((number, *_NUMBERS))
    return source.choice(
        (
            *(
                f"bytes={number}-{other}",
                f"bytes={number}-",
                f"bytes=-{other}",
                f"{number}-{other}",
                f"bytes {number}-{other}",
            ),
            *(
                f"bytes {number}-{other}/*",
                f"bytes */{number}",
                f"bytes={number}",
                f"BYTES={number}-{other}",
                "bytes=",
                "=",
            ),
            *(
                f"items={number}-{other}",
                "bytes=0-0,-1",
                "bytes=,,,",
                "bytes=0-,0-,0-",
                f"bytes=0-1,{number}-{other}",
                "bytes",
            ),
            "bytes=" + ",".join(f"{n * 3}-{n * 3}" for n in range(source.choice((2, 30, 300, 1023, 1024, 1025, 3000)))),
            "bytes=" + ",".join(["0-"] * source.choice((2, 1000, 1030))),
            "bytes=" + ",".join(f"-{n}" for n in range(source.choice((2, 200)))),
        )
    )


def ranges(source: random.Random, draft: Draft, grammar: Grammar) -> None:
    """Of blobs that are read, and of chunks that are pushed."""
    if source.random() < 0.5:
        made = source.choice((grammar.get_blob, grammar.head_blob, grammar.large_blob))()
        made.set("Range", _range(source))
        if source.random() < 0.2:
            made.headers.append((source.choice(("Range", "If-Range", "If-None-Match")), _range(source)))
    else:
        made = source.choice((grammar.append, grammar.commit, grammar.push_blob, grammar.part))()
        made.set("Content-Range", _range(source))
    _become(draft, made)


_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Content-Type": (
        "",
        "\xff",
        "application/json",
        "application/vnd.oci.image.index.v1+json",
        "a/b;c=d",
        "x" * 300,
        ",",
    ),
    "Accept": ("", "*/*", "\xff", "application/json;q=x", ",".join(["a/b"] * 500), "text/html"),
    "Accept-Encoding": ("gzip", "identity;q=0", "br, zstd", "\xff"),
    "Content-Encoding": ("gzip", "identity", "x"),
    "Digest": ("SHA-256=x", ""),
    "Docker-Content-Digest": (ABSENT, "x"),
    "Docker-Upload-UUID": ("../..", "x", ""),
    "Host": ("", "a b", "evil.example\\", 'a"b', "[::1]:80", "x" * 400, "\xff", "user:pass@host"),
    "If-Match": ("*", '"x"', "x"),
    "If-None-Match": (
        "*",
        '"',
        "W/",
        ",,,",
        f'"{ABSENT}"',
        f'W/"{ABSENT}", "x"',
        "\xff" * 50,
        ",".join(['"a"'] * 1000),
    ),
    "If-Range": ("x", f'"{ABSENT}"', "Wed, 21 Oct 2015 07:28:00 GMT"),
    "If-Modified-Since": ("x", "Wed, 21 Oct 2015 07:28:00 GMT"),
    "OCI-Chunk-Min-Length": ("-1", "x"),
    "Origin": ("null", "https://evil.example"),
    "Cookie": ("a=b", "x" * 3000),
    "User-Agent": ("", "\xff", "%n%s", "\x1b[31m", "a" * 2000, '","level":"error","x":"'),
    "X-Request-Id": ("\t", "x" * 65, "../x", 'a"b', "\xff", "a" * 64, "%0d%0a", "1"),
    "X-Forwarded-For": (
        ",,,",
        "::1%eth0",
        "999.1.1.1",
        "10.0.0.1, 10.0.0.2",
        "x" * 300,
        "\xff",
        "::ffff:1.2.3.4",
        "[::1]:80",
    ),
    "X-Forwarded-Proto": ("https", "javascript", "", "https, http", "\xff"),
    "X-Forwarded-Host": ("evil.example", ""),
    "X-HTTP-Method-Override": ("DELETE", ""),
    "Forwarded": ("for=_x;proto=https", "\xff"),
    "Client-Cert": (":AAAA:", "x", ""),
    "Expect": ("100-continue", "200-ok", ""),
    "Range": ("bytes=0-",),
    "Sec-Fetch-Site": ("cross-site",),
    "Connection": ("keep-alive", "x, y", "te"),
    "TE": ("trailers", "gzip"),
    "Max-Forwards": ("0",),
    "Upgrade-Insecure-Requests": ("1",),
    "Prefer": ("respond-async",),
}


def headers(source: random.Random, draft: Draft, _: Grammar) -> None:
    for _try in range(source.choice((1, 2, 3, 6))):
        name = source.choice(list(_HEADERS))
        value = source.choice(_HEADERS[name])
        # The first one stays, so that there are two.
        if source.random() < 0.3:
            draft.headers.append((name, value))
        else:
            draft.set(name, value)
    if source.random() < 0.02:
        draft.headers += [(f"X-{number}", "a" * 300) for number in range(source.choice((60, 120)))]
    if source.random() < 0.3:
        draft.method = source.choice(("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"))
    draft.good = ()


_METHODS: Final = (
    *("OPTIONS", "TRACE", "PROPFIND", "MOVE", "get", "Get", "LINK", "X" * 50, "HEAD", "GET", "PUT", "POST", "PATCH"),
    *("DELETE", "M-SEARCH", "QUERY", "$x", "PURGE", "__class__", "HEADX"),
)


def methods(source: random.Random, draft: Draft, _: Grammar) -> None:
    draft.method = source.choice(_METHODS)
    if source.random() < 0.2:
        draft.body = source.choice((b"", b"{}", source.randbytes(300)))


# Bodies


def manifests(source: random.Random, draft: Draft, grammar: Grammar) -> None:
    made = source.choice((grammar.push_tag, grammar.push_digest, grammar.push_index))()
    way = source.random()
    if way < 0.01:
        many = source.choice((1000, 5000))
        name = source.choice(("layers", "manifests"))
        made.document = {**made.document, name: [made.document.get("config", {})] * many}
        made.body = written(made.document)
    elif way < 0.0105:
        made.body = b'{"schemaVersion":2,"x":"' + b"a" * source.choice((4_194_200, 4_194_304, 5_000_000)) + b'"}'
    elif way < 0.03:
        opening = source.choice((b"[", b'{"a":', b'{"layers":[', b'[{"config":'))
        made.body = opening * source.choice((100, 1000, 20_000))
    elif way < 0.05:
        made.body = source.randbytes(source.randrange(200))
    else:
        made.body = json_bytes(source, made.document)
    if source.random() < 0.2:
        made.set("Content-Type", source.choice(_HEADERS["Content-Type"]))
    if made.name == "manifest.put digest":
        # Else nothing but the digest would be found wrong.
        made.path[-1] = source.choice((made.path[-1], TAGS[0]))
    _become(draft, made)


def extension(source: random.Random, draft: Draft, grammar: Grammar) -> None:
    """Documents of the parallel extension."""
    made = source.choice((grammar.open, grammar.urls, grammar.complete, grammar.open))()
    if made.name == "parallel.complete":
        points = source.choice((b"", b"x", source.randbytes(100), b"\0" * 3000))
        made.document = {**made.document, "checkpoints": base64.b64encode(points).decode()}
    if made.document is not None:
        made.body = json_bytes(source, made.document)
    if source.random() < 0.2:
        made.path[-1] = source.choice((*_NUMBERS, "parts", "urls", "complete"))
    _become(draft, made)


# Credentials


def authorization(source: random.Random, draft: Draft, grammar: Grammar, forger: Forger) -> None:
    draft.set("Authorization", forger.header(source))
    if source.random() < 0.05:
        draft.headers.append(("Authorization", source.choice(grammar.keys.writers)))


Mutation = Callable[[random.Random, Draft, Grammar], None]


def mutations(forger: Forger) -> Mapping[str, tuple[float, Mutation]]:
    """By class, with its weight."""
    return {
        "paths": (9, paths),
        "references": (7, references),
        "queries": (7, queries),
        "scopes": (5, scopes),
        "forms": (4, forms),
        "ranges": (7, ranges),
        "headers": (7, headers),
        "methods": (3, methods),
        "manifests": (8, manifests),
        "extension": (6, extension),
        "authorization": (9, lambda source, draft, grammar: authorization(source, draft, grammar, forger)),
    }


FURTHER: Final[tuple[Mutation, ...]] = (paths, queries, headers, methods)
"""What may be done to a request beside another mutation."""


def pasted(source: random.Random, draft: Draft, grammar: Grammar) -> None:
    """A token where a name, a tag or something else that is written down belongs."""
    secret = source.choice((grammar.keys.robot, grammar.keys.id_token))
    if "manifests" in draft.path and draft.method == "PUT":
        # A robot's token is a good tag: who pushes under it has told everybody who may list the tags.
        draft.method = "GET"
    match source.randrange(6):
        case 0:
            draft.path[-1] = secret
        case 1:
            draft.path[source.randrange(len(draft.path))] = secret
        case 2:
            draft.query.append((source.choice(_NAMES), secret))
        case 3:
            draft.set("User-Agent", f"client {secret}")
        case 4:
            draft.headers.append(
                (source.choice(("X-Request-Id", "Host", "X-Forwarded-For", "Cookie", "Referer")), secret)
            )
        case _:
            draft.set("Authorization", f"Basic {base64.b64encode(f'{secret}:'.encode()).decode()}")


def certificates(source: random.Random, draft: Draft, texts: tuple[str, ...]) -> None:
    """Certificates of clients, in the forms in which proxies pass them on: ``texts`` are good ones."""
    good = source.choice(texts)
    raw = bytearray(base64.b64decode(good))
    for _ in range(source.choice((0, 1, 1, 2, 8))):
        at = source.randrange(len(raw))
        if source.random() < 0.7:
            raw[at] ^= 1 << source.randrange(8)
        else:
            raw[at : at + 1] = source.randbytes(source.randrange(4))
    text = base64.b64encode(bytes(raw)).decode()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    odd = (_spoiled(source, text), "", ":", "::", ":" + text, quote(f"{begin}\n{text}\n{end}\n{begin}\n{text}\n{end}"))
    right = (text, f":{text}:", quote(f"{begin}\n{text}\n{end}\n"), quote(f"{begin} {text} {end}"))
    draft.set("Client-Cert", source.choice(right if source.random() < 0.8 else odd))
    if source.random() < 0.8:
        draft.headers = [pair for pair in draft.headers if pair[0].lower() != "authorization"]
    if source.random() < 0.05:
        draft.headers.append(("Client-Cert", source.choice(right)))
    if source.random() < 0.3:
        draft.set("X-Forwarded-For", source.choice(_HEADERS["X-Forwarded-For"]))
