"""Certificates for servers of this machine, of an authority that only the tests know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import run, tool


@dataclass(frozen=True)
class Tls:
    """Files in PEM. ``authority`` is what a client must trust; the certificate is for 127.0.0.1 and localhost."""

    authority: Path
    authority_key: Path
    certificate: Path
    key: Path


def make_tls(folder: Path) -> Tls:
    """A new authority and a certificate by it, valid for a month."""
    openssl = tool("openssl")
    folder.mkdir(parents=True, exist_ok=True)
    authority, authority_key = folder / "authority.crt", folder / "authority.key"
    certificate, key, request, names = (folder / f"server.{end}" for end in ("crt", "key", "csr", "names"))
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
    new = (openssl, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    own = ("-x509", "-days=30", "-subj=/CN=authority of the tests")
    run([*new, *own, f"-keyout={authority_key}", f"-out={authority}"])
    run([*new, "-subj=/CN=localhost", f"-keyout={key}", f"-out={request}"])
    signed_by = ("-CA", authority, "-CAkey", authority_key, "-CAcreateserial")
    run([openssl, "x509", "-req", "-in", request, *signed_by, "-days", "30", "-extfile", names, "-out", certificate])
    return Tls(authority, authority_key, certificate, key)


def make_client(tls: Tls, folder: Path, subject: str = "/CN=builder") -> tuple[Path, Path]:
    """A client's certificate by the authority of ``tls``, and its key."""
    openssl = tool("openssl")
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key, request, names = (folder / f"client.{end}" for end in ("crt", "key", "csr", "names"))
    names.write_text("basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")
    new = (openssl, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run([*new, f"-subj={subject}", f"-keyout={key}", f"-out={request}"])
    signed_by = ("-CA", tls.authority, "-CAkey", tls.authority_key, "-CAcreateserial")
    run([openssl, "x509", "-req", "-in", request, *signed_by, "-days", "30", "-extfile", names, "-out", certificate])
    return certificate, key
