from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from tests.unit.access.oracle import ACTIONS, Line, allowed, key
from tests.unit.access.world import GROUPS, NAMES, PEOPLE, principal, rule_lines, written

from bucketry.access import ANONYMOUS, OPEN, Action, Grant, Policy, Principal, Rule, parse_access
from bucketry.access.patterns import TextGlob
from bucketry.oci.glob import RepositoryGlob

ALICE = Principal("user", "alice")


def policy(*lines: Line) -> Policy:
    return parse_access(written(lines), path="access.toml").policy


def rule(number: int, who: str, repository: str, *actions: str) -> Rule:
    return Rule(number, (who,), (RepositoryGlob(repository),), frozenset(map(Action, actions)))


@settings(max_examples=100, deadline=None)
@given(rule_lines)
def test_what_is_allowed_is_what_the_oracle_allows(lines: list[Line]) -> None:
    decider = policy(*lines)
    right = allowed(lines, GROUPS, PEOPLE, NAMES)
    for person in PEOPLE:
        who = principal(person)
        for action in ACTIONS:
            for name in NAMES:
                decision = decider.decide(who, Action(action), name)
                assert decision.allowed == ((key(person), action, name) in right), (person, action, name)
                assert bool(decision.missing) != decision.allowed
                if action == "pull":
                    assert decider.visible(who, name) == decision.allowed


@settings(max_examples=60, deadline=None)
@given(rule_lines)
def test_the_rule_that_is_named_is_the_first_that_allows_it_alone(lines: list[Line]) -> None:
    decider = policy(*lines)
    alone = [allowed([line], GROUPS, PEOPLE, NAMES) for line in lines]
    for person in PEOPLE:
        for action in ACTIONS:
            for name in NAMES:
                decision = decider.decide(principal(person), Action(action), name)
                first = next((n for n, one in enumerate(alone, 1) if (key(person), action, name) in one), None)
                assert (decision.rule.number if decision.rule else None) == first


@settings(max_examples=50, deadline=None)
@given(rule_lines)
def test_who_may_pull_all_may_pull_each(lines: list[Line]) -> None:
    decider = policy(*lines)
    for person in PEOPLE:
        who = principal(person)
        by_rule = any("**" in line.repositories for line in lines)
        if decider.may_pull_all(who):
            assert by_rule
            assert all(decider.visible(who, name) for name in (*NAMES, "never/heard-of"))


def test_rules_for_anonymous_are_for_everybody() -> None:
    decider = policy(Line(("anonymous",), ("public/**",), ("pull",)))

    assert all(decider.visible(principal(person), "public/app") for person in PEOPLE)
    assert not any(decider.visible(principal(person), "private/app") for person in PEOPLE)


def test_without_rules_nobody_may_do_anything() -> None:
    for person in PEOPLE:
        for action in Action:
            assert not Policy().decide(principal(person), action, "team/app").allowed
            assert not Policy().decide(principal(person), action, None).allowed


def test_without_a_file_everybody_may_do_everything() -> None:
    for person in PEOPLE:
        for action in Action:
            assert OPEN.decide(principal(person), action, "team/app").allowed
    assert OPEN.may_pull_all(ANONYMOUS)
    assert OPEN.immutable("team/app", "v1") is None
    assert OPEN.is_open
    assert not Policy().is_open
    assert "no rules at all" in OPEN.decide(ANONYMOUS, Action.PULL, "a").reason


@pytest.mark.parametrize(
    "name", ["", "Team/app", "team/../app", "team//app", "team/app\n", "/team", "team/", "te\u0430m", "a" * 256, "a b"]
)
def test_what_is_no_name_is_denied_even_to_who_may_do_everything(name: str) -> None:
    decision = Policy([rule(1, "anonymous", "**", "admin")]).decide(ANONYMOUS, Action.PULL, name)

    assert not decision.allowed
    assert "is not the name of a repository" in decision.missing
    assert decision.missing.isascii()
    assert "\n" not in decision.reason


def test_the_whole_registry_takes_a_rule_for_all_of_it() -> None:
    some = Policy([rule(1, "user:alice", "team/**", "admin", "pull")])
    every = Policy([rule(1, "user:alice", "team/**", "pull"), rule(2, "user:alice", "**", "admin")])

    assert not some.decide(ALICE, Action.ADMIN, None).allowed
    assert not some.may_pull_all(ALICE)
    assert every.decide(ALICE, Action.ADMIN, None).allowed
    assert every.may_pull_all(ALICE)


def test_the_catalog_is_about_no_repository() -> None:
    decider = Policy([rule(1, "user:alice", "team/app", "catalog")])

    assert decider.decide(ALICE, Action.CATALOG, None).allowed
    assert decider.decide(ALICE, Action.CATALOG, "other").allowed
    assert not decider.decide(Principal("user", "bob"), Action.CATALOG, None).allowed


def test_a_robot_brings_its_own_list_along() -> None:
    grant = Grant((RepositoryGlob("team/*"),), frozenset({Action.PULL, Action.PUSH}))
    robot = Principal("robot", "ci", grant=grant)
    decider = Policy([rule(1, "robot:ci", "extra", "delete")])

    assert decider.decide(robot, Action.PUSH, "team/app").allowed
    assert decider.decide(robot, Action.PUSH, "team/app").reason == (
        "robot:ci may do so by its own list: pull, push on team/*"
    )
    assert not decider.decide(robot, Action.DELETE, "team/app").allowed
    assert not decider.decide(robot, Action.PUSH, "team/app/x").allowed
    assert not decider.decide(robot, Action.CATALOG, None).allowed
    assert not decider.may_pull_all(robot)
    assert decider.decide(robot, Action.DELETE, "extra").allowed
    assert not decider.decide(Principal("robot", "ci"), Action.PUSH, "team/app").allowed


def test_a_robot_for_some_repositories_may_list_them() -> None:
    robot = Principal("robot", "ci", grant=Grant((RepositoryGlob("team/*"),), frozenset({Action.CATALOG})))

    assert Policy().decide(robot, Action.CATALOG, None).allowed
    assert not Policy().visible(robot, "team/app")


def test_a_robot_for_everything_may_do_it_to_the_whole_registry() -> None:
    robot = Principal("robot", "root", grant=Grant((RepositoryGlob("**"),), frozenset({Action.ADMIN})))

    assert Policy().decide(robot, Action.ADMIN, None).allowed
    assert Policy().may_pull_all(robot)
    assert Policy().decide(robot, Action.CATALOG, None).allowed


def test_a_user_is_not_a_robot_of_the_same_name() -> None:
    decider = Policy([rule(1, "user:ci", "**", "pull")])

    assert decider.visible(Principal("user", "ci"), "a")
    for kind in ("robot:ci", "oidc:ci", "cert:CN=ci", "user:Ci"):
        assert not decider.visible(Principal.parse(kind), "a")


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"owner": "acme", "ref": "refs/heads/main"}, True),
        ({"owner": "acme", "ref": ("x", "refs/heads/main")}, True),
        ({"owner": ("acme",), "ref": "refs/tags/v1/refs/heads/main"}, False),
        ({"owner": "Acme", "ref": "refs/heads/main"}, False),
        ({"owner": "acme-evil", "ref": "refs/heads/main"}, False),
        ({"owner": "evil/acme", "ref": "refs/heads/main"}, False),
        ({"owner": "acme\n", "ref": "refs/heads/main"}, False),
        ({"owner": "\u0430cme", "ref": "refs/heads/main"}, False),
        ({"owner": (), "ref": "refs/heads/main"}, False),
        ({"owner": "acme"}, False),
        ({"ref": "refs/heads/main"}, False),
        ({}, False),
        ({"owner": "acme", "ref": "refs/heads/\nx"}, True),
    ],
)
def test_all_claims_must_match(claims: dict[str, str | tuple[str, ...]], accepted: bool) -> None:
    line = Line(("oidc:hub",), ("**",), ("pull",), {"owner": ("acme",), "ref": ("refs/heads/*", "refs/tags/v1")})

    assert policy(line).visible(Principal("oidc", "hub", claims), "a") == accepted
    assert not policy(line).visible(Principal("oidc", "lab", claims), "a")


def test_a_rule_that_asks_for_claims_does_not_hide_a_later_one() -> None:
    lines = (
        Line(("oidc:hub",), ("team/app",), ("pull",), {"owner": ("acme",)}),
        Line(("oidc:hub",), ("team/*",), ("pull",), {"owner": ("other",)}),
    )
    decision = policy(*lines).decide(Principal("oidc", "hub", {"owner": "other"}), Action.PULL, "team/app")

    assert decision.rule is not None
    assert decision.rule.number == 2


def test_immutable_tags_are_told_with_what_makes_them_so() -> None:
    text = written([]) + (
        '[[immutable]]\nrepositories = ["team/**"]\ntags = ["v*", "stable"]\n'
        '[[immutable]]\nrepositories = ["*"]\ntags = ["*-final"]\n'
    )
    decider = parse_access(text, path="access.toml").policy

    def number(repository: str, tag: str) -> int | None:
        found = decider.immutable(repository, tag)
        return found.number if found else None

    assert number("team/app", "v1") == number("team", "v") == number("team/a/b", "stable") == 1
    assert number("top", "1-final") == 2
    assert number("team", "v-final") == 1
    assert number("team", "1-final") == 2
    for repository, tag in [("team/app", "V1"), ("team/app", "stable2"), ("teams/app", "v1"), ("a/b", "1-final")]:
        assert number(repository, tag) is None
    found = decider.immutable("team/app", "v1")
    assert found is not None
    assert (found.place, found.text) == (
        "immutable 1 (line 14)",
        'repositories = ["team/**"], tags = ["v*", "stable"]',
    )


@pytest.mark.parametrize(
    ("who", "action", "repository", "message"),
    [
        (
            ALICE,
            Action.PULL,
            "x",
            "user:alice may not pull from x: ask whoever runs this registry for the right to pull on x",
        ),
        (
            ALICE,
            Action.PUSH,
            "x",
            "user:alice may not push to x: ask whoever runs this registry for the right to push on x",
        ),
        (
            ALICE,
            Action.OVERWRITE,
            "x",
            "user:alice may not move tags in x: ask whoever runs this registry for the right to overwrite on x",
        ),
        (
            ALICE,
            Action.CATALOG,
            None,
            "user:alice may not list the repositories: ask whoever runs this registry for the right to catalog",
        ),
        (
            ALICE,
            Action.ADMIN,
            None,
            "user:alice may not administer every repository: ask whoever runs this registry for the right to admin on "
            "the whole registry",
        ),
        (
            ANONYMOUS,
            Action.DELETE,
            "x",
            "to delete from x one has to log in, as somebody who has the right to delete on x",
        ),
    ],
)
def test_a_denied_person_reads_what_is_missing(
    who: Principal, action: Action, repository: str | None, message: str
) -> None:
    decision = Policy([rule(1, "user:secret-name", "secret/**", "admin")]).decide(who, action, repository)

    assert decision.missing == message
    assert "secret" not in decision.reason


def test_a_rule_reads_as_it_is_written() -> None:
    line = Line(("oidc:hub",), ("a/*", "b"), ("push", "pull"), {"owner": ("acme",), "k.n": ('q"\\', "\u0430")})
    one = Rule(
        3,
        line.who,
        tuple(map(RepositoryGlob, line.repositories)),
        frozenset({Action.PUSH, Action.PULL}),
        {name: tuple(map(TextGlob, values)) for name, values in line.claims.items()},
        17,
    )

    assert one.place == "rule 3 (line 17)"
    assert one.text == (
        'who = ["oidc:hub"], claims = { owner = "acme", "k.n" = ["q\\"\\\\", "\\U00000430"] }, '
        'repositories = ["a/*", "b"], allow = ["pull", "push"]'
    )
    back = "[[rule]]\n" + one.text.replace("], ", "]\n").replace("}, ", "}\n") + "\n"
    assert parse_access(back, path="x").rules[0].text == one.text


def test_thousands_of_decisions_a_second_with_two_hundred_rules() -> None:
    rules = [rule(n, "group:dev" if n % 2 else f"user:u{n}", f"team-{n}/*/x-*", "pull", "push") for n in range(1, 101)]
    rules += [rule(n, "authenticated", f"**/app-{n}", "pull") for n in range(101, 201)]
    decider = Policy(rules, groups={"dev": frozenset({"user:alice"})})
    began = time.perf_counter()
    for n in range(5_000):
        decider.decide(ALICE, Action.PUSH, f"team-{n}/some/where/else")
    took = time.perf_counter() - began

    assert took < 2.5  # a tenth of that on an idle machine; a scan with slow patterns takes far longer
