from __future__ import annotations

import pytest
from tests.unit.access.oracle import Line
from tests.unit.access.world import written

from bucketry.access import ANONYMOUS, Action, Principal, near_misses, parse_access

LINES = (
    Line(("group:one",), ("team/*",), ("pull",)),
    Line(("oidc:hub",), ("team/*",), ("pull", "push"), {"owner": ("acme",), "ref": ("refs/heads/main", "refs/tags/*")}),
    Line(("authenticated",), ("shared/**",), ("catalog",)),
)
POLICY = parse_access(written(LINES), path="access.toml").policy


@pytest.mark.parametrize(
    ("principal", "action", "repository", "lines"),
    [
        (
            Principal("user", "alice"),
            Action.PUSH,
            "team/app",
            [
                "rule 1 (line 14) allows pull there, and not push",
                "rule 2 (line 18) allows it to oidc:hub, and user:alice is not among them",
            ],
        ),
        (
            Principal("user", "alice"),
            Action.PULL,
            "team/app/x",
            ["rule 1 (line 14) allows it in team/*, and not in team/app/x"],
        ),
        (
            Principal("user", "alice"),
            Action.PULL,
            None,
            ["rule 1 (line 14) allows it in team/*, and not in every repository (**)"],
        ),
        (
            Principal("user", "bob"),
            Action.PULL,
            "team/app",
            [
                "rule 1 (line 14) allows it to group:one, and user:bob is not among them",
                "rule 2 (line 18) allows it to oidc:hub, and user:bob is not among them",
            ],
        ),
        (
            Principal("oidc", "hub", {"owner": "acme", "ref": ("refs/heads/dev", "x")}),
            Action.PUSH,
            "team/app",
            [
                "rule 2 (line 18) allows it where the claim ref is 'refs/heads/main' or 'refs/tags/*', and it is "
                "'refs/heads/dev' and 'x'"
            ],
        ),
        (
            Principal("oidc", "hub", {"ref": "refs/heads/main"}),
            Action.PUSH,
            "team/app",
            ["rule 2 (line 18) allows it where the claim owner is 'acme', and there is none"],
        ),
        (
            ANONYMOUS,
            Action.CATALOG,
            None,
            ["rule 3 (line 25) allows it to authenticated, and anonymous is not among them"],
        ),
        (Principal("user", "bob"), Action.DELETE, "elsewhere", []),
    ],
)
def test_rules_that_come_near_are_told_with_what_is_missing(
    principal: Principal, action: Action, repository: str | None, lines: list[str]
) -> None:
    assert list(near_misses(POLICY, principal, action, repository)) == lines


def test_there_are_at_most_five() -> None:
    policy = parse_access(written([LINES[0]] * 20), path="access.toml").policy

    assert len(near_misses(policy, Principal("user", "bob"), Action.PULL, "team/app")) == 5
