"""What strangers put where a registry expects a name, a digest, a tag, a session id, or a request."""

from __future__ import annotations

import random

from tests.support.api import ABSENT, image, noise


def words(text: str) -> list[str]:
    return text.split()


NAMES = [
    *words(r"""
    .. ../.. ../../../../etc/passwd . ... a/../b a/./b a//b /a a/ ~blobs a/~tags/v1 a/~manifests %2e%2e %2e%2e%2f%2e%2e
    ..%2f..%2fetc a%2f..%2fb %2e a%00 %00 a%00/../b a%0ab a%0d%0aX-Evil:%201 %c0%ae%c0%ae %ff a%20b a\b ..\.. %5c..%5c
    a%3fb a%23b a:b A é %c3%a9 %e2%80%ae ａ ％2e con -a a- a__.b a..b _a catalog blobs a@b a;b * $(id) `id` {} % %zz %2
    uploads/x
    """),
    "\u202e",
    "a" * 300,
    "a/" * 200 + "a",
]
HARMLESS = frozenset({"con", "catalog", "blobs", "uploads/x"})
"""Of them, those that are names by the grammar: they are taken as such, and no more."""

_ZEROS = "0" * 64
_ENDS = ("0" * 63, "0" * 65, _ZEROS + ":", _ZEROS[1:] + "/", _ZEROS[1:] + "%00", _ZEROS + "%0a")
REFERENCES = [
    *words("""
    sha256:.. sha256:../../../etc/passwd sha256: sha256:: : .. . %2e%2e ..%2f..%2fetc -x .x x%00 x%0d%0aX-Evil:%201
    x%20y é %ff ~x * sha1:0123 sha256+b64u:0123
    """),
    *(f"sha256:{end}" for end in _ENDS),
    *(f"sha256:{digit * 64}" for digit in "٣GA"),
    *(f"{algorithm}:{_ZEROS}" for algorithm in ("SHA256", "..", "../x", "", "sha512")),
    "sha256:%2e%2e%2f" + "a" * 58,
    "sha256%3a" + "g" * 64,
    "x" * 129,
    "",
]

_UUID = "f1e2d3c4-0000-4000-8000-000000000000"
SESSIONS = [
    *words(".. %2e%2e ../../bucketry.json ..%2f..%2fbucketry.json x %00 é %ff .more ... .... x%0d%0aX-Evil:%201"),
    _UUID,
    f"{_UUID}.65000000.any.{'0' * 32}",
    f"{_UUID}.ffffffffffff.any.{'0' * 32}.more",
    f"{_UUID.upper()}.1.any.",
    "a" * 3000,
]

_PARTS = [
    *words(f"""
    v2 a b-c manifests blobs uploads tags list referrers _catalog latest {ABSENT} .. %2e%2e %00 %ff ~blobs é sha256:
    _bucketry sha512:{"a" * 128} {"x" * 300}
    """),
    "",
]
_QUERIES = words(f"""
    digest={ABSENT} digest= n=1 n=%00 last=%ff mount={ABSENT} from=a tag=a tag= artifactType=%0a = && %
    digest-algorithm=sha512 digest=sha256:%00
    """)
_HEADERS = [
    "Range: bytes=0-",
    "Range: bytes=%",
    "Content-Range: 0-4",
    "Content-Range: x",
    "If-None-Match: *",
    "If-Range: x",
    "Accept: \xff",
    "Content-Type: application/vnd.oci.image.manifest.v1+json",
    "Content-Type: \xff",
    "Content-Encoding: gzip",
    "X-Request-Id: \t",
    "X-Forwarded-For: ,,,",
    "Expect: 200-ok",
    "Connection: close, x",
]
_METHODS = words("GET HEAD PUT POST PATCH DELETE")


def mutations(seed: int, count: int) -> list[bytes]:
    """Requests near to good ones."""
    source = random.Random(seed)
    found = []
    for _ in range(count):
        path = "/v2/" + "/".join(source.choice(_PARTS) for _ in range(source.randrange(6)))
        query = "&".join(source.sample(_QUERIES, source.randrange(4)))
        body = source.choice([b"", b"{}", b"hello", image(), noise(seed, 300)])
        lines = [f"{source.choice(_METHODS)} {path}?{query} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}"]
        lines += source.sample(_HEADERS, source.randrange(4))
        found.append("\r\n".join([*lines, "", ""]).encode("utf-8" if "é" in path else "latin-1") + body)
    return found


_BODIES = [
    b"",
    b"{}",
    b"[]",
    b'{"size":1000}',
    b'{"parts":[1]}',
    b'{"parts":[0,10001]}',
    b'{"digest":"%s","size":1000}' % ABSENT.encode(),
    b'{"digest":"%s","size":1000,"checkpoints":"AAAA"}' % ABSENT.encode(),
    b'{"digest":"%s","size":1000,"checkpoints":"\xff"}' % ABSENT.encode(),
    b'{"size":',
]


def extension_mutations(seed: int, count: int, session: str) -> list[bytes]:
    """Requests near to good ones of the extension, in the repository ``a``."""
    source = random.Random(seed)
    pieces = ["uploads", "checkpoints", "urls", "parts", "complete", session, session[:-1], "1", "0", ABSENT, *_PARTS]
    shapes = [["uploads"], ["uploads", session], ["uploads", session, "complete"], ["uploads", session, "parts", "1"]]
    found = []
    for _ in range(count):
        path = source.choice(shapes) + source.choices(pieces, k=source.randrange(3))
        if source.random() < 0.3:
            path = source.choices(pieces, k=source.randrange(5))
        body = source.choice([*_BODIES, noise(seed, 1000)])
        lines = [f"{source.choice(_METHODS)} /v2/a/_bucketry/{'/'.join(path)} HTTP/1.1", "Host: a"]
        lines += [f"Content-Length: {len(body)}", *source.sample(_HEADERS, source.randrange(4))]
        found.append("\r\n".join([*lines, "", ""]).encode("utf-8" if "é" in path else "latin-1") + body)
    return found
