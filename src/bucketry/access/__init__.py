"""Who may do what: principals, rules, the files that they stand in, scopes and tokens. Pure: no I/O, no asyncio.

See ``docs/rfcs/0006-access.md``.
"""

from __future__ import annotations

from bucketry.access.access_file import AccessFile
from bucketry.access.actions import ALL_ACTIONS, Action, nearest_action
from bucketry.access.errors import (
    AccessError,
    AccessFileInvalid,
    PrincipalInvalid,
    TokenInvalid,
    UnusableFile,
    UsersInvalid,
)
from bucketry.access.explain import near_misses
from bucketry.access.htpasswd import Users, hash_password, htpasswd_line, parse_htpasswd
from bucketry.access.policy_file import parse_access
from bucketry.access.principal import ANONYMOUS, Grant, Method, Principal, claims_of
from bucketry.access.robots import RobotRecord, RobotToken, Standing, is_token, make_token, parse_token
from bucketry.access.rules import OPEN, Decision, Immutable, Policy, Rule
from bucketry.access.scopes import Scope, ScopeInvalid, covered, granted, parse_scopes, scopes_of_entries
from bucketry.access.sources import Issuer, TokenService

__all__ = [
    "ALL_ACTIONS",
    "ANONYMOUS",
    "OPEN",
    "AccessError",
    "AccessFile",
    "AccessFileInvalid",
    "Action",
    "Decision",
    "Grant",
    "Immutable",
    "Issuer",
    "Method",
    "Policy",
    "Principal",
    "PrincipalInvalid",
    "RobotRecord",
    "RobotToken",
    "Rule",
    "Scope",
    "ScopeInvalid",
    "Standing",
    "TokenInvalid",
    "TokenService",
    "UnusableFile",
    "Users",
    "UsersInvalid",
    "claims_of",
    "covered",
    "granted",
    "hash_password",
    "htpasswd_line",
    "is_token",
    "make_token",
    "near_misses",
    "nearest_action",
    "parse_access",
    "parse_htpasswd",
    "parse_scopes",
    "parse_token",
    "scopes_of_entries",
]
