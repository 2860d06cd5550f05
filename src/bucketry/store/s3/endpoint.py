"""Which host is asked, for which path, in which region."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from bucketry.store.s3.config import Addressing
from bucketry.store.s3.signing import encode_path


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bucket's objects are: ``scheme://host`` and the path that stands before every key.

    ``host`` is what the Host header says and what is signed: with the port where it is not the scheme's own.
    """

    scheme: str
    host: str
    path: str
    region: str
    aws: bool

    def key_path(self, key: str) -> str:
        """The encoded path of a key; of the bucket itself where ``key`` is empty."""
        return encode_path(f"{self.path}/{key}")

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host}"


def resolve_address(endpoint: str, bucket: str, region: str, addressing: Addressing) -> Address:
    """The address of a bucket at an endpoint, which was checked (`config.check_endpoint`)."""
    parts = urlsplit(endpoint)
    assert parts.hostname is not None, "endpoints are checked"
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    standard = {"http": 80, "https": 443}[parts.scheme]
    port = "" if parts.port in (None, standard) else f":{parts.port}"
    path = parts.path.rstrip("/")
    aws = is_aws(parts.hostname)
    if addressing == "virtual" or (addressing == "auto" and aws and "." not in bucket):
        if _is_address(parts.hostname):
            raise ValueError(f"addressing=virtual needs a host name, and {parts.hostname} is an address")
        return Address(parts.scheme, f"{bucket}.{name}{port}", path, region, aws)
    return Address(parts.scheme, f"{name}{port}", f"{path}/{bucket}", region, aws)


def is_aws(host: str) -> bool:
    """Whether a host is one of AWS's own; other stores are asked with more care."""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
