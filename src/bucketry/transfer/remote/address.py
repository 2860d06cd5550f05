"""Where requests go: the origin of a registry, and the addresses that its answers name.

An origin is scheme, host and port. It is what credentials are bound to: the same name over another scheme, or on
another port, is somebody else.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from yarl import URL

from bucketry.oci.reference import DEFAULT_REGISTRY

MAX_ADDRESS: Final = 16 * 1024
"""Characters in an address that a server names. Presigned ones with a session's token have some 2,000."""

_DOCKER_API: Final = "registry-1.docker.io"


def registry_origin(host: str, *, plain: bool) -> URL:
    """Where the API of the registry ``host`` (host or host:port, as in a reference) is. ``plain``: http, not https."""
    authority = _DOCKER_API if host == DEFAULT_REGISTRY else host
    return URL(f"{'http' if plain else 'https'}://{authority}")


def is_loopback(host: str) -> bool:
    """Whether a host, without port and brackets, is this machine by its name or address: no request leaves it."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def same_origin(one: URL, other: URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def resolve(base: URL, text: str) -> URL:
    """The address ``text`` (absolute, or relative to ``base``) as it is written, without its fragment.

    ValueError says what is wrong with it: nothing but printable ASCII may reach a request line, and nothing but http
    and https is spoken.
    """
    if not text:
        raise ValueError("it is empty")
    if len(text) > MAX_ADDRESS:
        raise ValueError(f"it has {len(text)} characters")
    if not all("!" <= character <= "~" for character in text):
        raise ValueError("it holds characters that no address has")
    given = URL(text, encoded=True)
    url = base.join(given)
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{url.scheme[:20]}: is not spoken here")
    if not url.host or (given.scheme and not given.host):
        raise ValueError("it names no host")
    if "@" in url.raw_authority:
        raise ValueError("it names a user: no server has a say in who logs in")
    return url.with_fragment(None)


def shown(url: URL) -> str:
    """For a message: neither path nor query, where presigned addresses have their secrets."""
    return f"{url.scheme}://{authority_of(url)}"


def authority_of(url: URL) -> str:
    """``host[:port]``, the port where it is not the scheme's own, an IPv6 address in brackets."""
    host = url.host or ""
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() else f"{host}:{url.port}"
