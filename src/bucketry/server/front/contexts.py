"""TLS as the fronts speak it."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those that HTTP/2 takes (RFC 9113, appendix A), and nothing that browsers warn of. 1.3 has no others."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """In PEM; ``key`` is not encrypted. ``authorities``: of clients' certificates; ``revoked``: lists of theirs."""

    certificate: bytes
    key: bytes
    authorities: bytes | None
    revoked: bytes | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """``required``: whether a client without a certificate is let in, where there are authorities."""

    version: str
    required: bool
    http2: bool


def server_context(keys: Keys, terms: Terms) -> ssl.SSLContext:
    """Raises `ssl.SSLError` for keys that OpenSSL does not serve with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if terms.version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols([*(["h2"] if terms.http2 else []), "http/1.1"])
    _from_file(keys.key + b"\n" + keys.certificate, context.load_cert_chain)
    if keys.authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED if terms.required else ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=keys.authorities.decode("ascii"))
        if keys.revoked is None:
            # An authority may be one below another that the owner does not trust with everything.
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        else:
            # Of all up to the root, which is there then: who is revoked is looked up in the list of the one above.
            _from_file(keys.revoked, context.load_verify_locations)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
        # A ticket would bring back who was verified by the authorities of then.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _from_file(pem: bytes, load: Callable[[str], object]) -> None:
    """OpenSSL reads these from files only: from one that is nowhere, where the system has such."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("bucketry-tls"), "w+b") as memory:
            memory.write(pem)
            memory.flush()
            load(f"/proc/self/fd/{memory.fileno()}")
        return
    with tempfile.NamedTemporaryFile(prefix="bucketry-tls-") as file:
        file.write(pem)
        file.flush()
        load(file.name)
