"""What a file of rules says, once it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bucketry.access.errors import PrincipalInvalid
from bucketry.access.principal import Method, Principal
from bucketry.access.rules import Immutable, Policy, Rule
from bucketry.access.sources import Issuer, TokenService


@dataclass(frozen=True)
class AccessFile:
    """What a file of rules says.

    ``users``: path of the htpasswd file, as it is written. ``groups``: name to members, as principals are written.
    ``certificates``: name of a certificate to the name of the user that it stands for. ``warnings``: a line each, with
    the path and the place; nothing of them keeps the file from being used.
    """

    path: str
    users: str | None = None
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    issuers: tuple[Issuer, ...] = ()
    rules: tuple[Rule, ...] = ()
    immutables: tuple[Immutable, ...] = ()
    token: TokenService | None = None
    certificates: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @cached_property
    def policy(self) -> Policy:
        return Policy(self.rules, groups=self.groups, immutables=self.immutables)

    @cached_property
    def named(self) -> Mapping[str, str]:
        """Every principal that a rule or a group names, as it is written there, and where it is named first."""
        found: dict[str, str] = {}
        for rule in self.rules:
            for who in rule.who:
                if not who.startswith("group:"):
                    found.setdefault(who, rule.place)
        for group, members in self.groups.items():
            for member in sorted(members):
                found.setdefault(member, f"the group {group}")
        return found

    def certificate(self, names: Sequence[str]) -> Principal | None:
        """Whom a client certificate stands for: a user that `certificates` maps it to, or itself.

        ``names``: all that it bears, as rules write them (``CN=…``, ``DNS:…``, ``URI:…``, ``EMAIL:…``). The first
        that is mapped counts, else the first that a rule or a group names, else the first that is a name. None where
        none is.
        """
        mapped = self.mapped(names)
        if mapped is not None:
            return Principal("user", self.certificates[mapped], method=Method.CERTIFICATE)
        good = [name for name in map(_lower_host, names) if _is_certificate(name)]
        known = [name for name in good if f"cert:{name}" in self.named]
        for name in [*known, *good]:
            return Principal("certificate", name, method=Method.CERTIFICATE)
        return None

    def mapped(self, names: Sequence[str]) -> str | None:
        """Of a certificate's names the one by which it stands for a user."""
        return next((name for name in map(_lower_host, names) if name in self.certificates), None)


def _lower_host(name: str) -> str:
    return "DNS:" + name[4:].lower() if name.startswith("DNS:") else name


def _is_certificate(name: str) -> bool:
    try:
        Principal("certificate", name)
    except PrincipalInvalid:
        return False
    return True
