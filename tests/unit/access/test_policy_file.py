# ruff: noqa: E501 (tables of messages)
from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.access.oracle import Line, allowed
from tests.unit.access.world import GROUPS, NAMES, PEOPLE, rule_lines, written

from bucketry.access import AccessFileInvalid, Action, Method, parse_access

RFC = Path(__file__).parents[3] / "docs" / "rfcs" / "0006-access.md"
RULE = 'who = ["user:alice"]\nrepositories = ["team/**"]\nallow = ["pull"]\n'


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(AccessFileInvalid) as caught:
        parse_access(text, path="access.toml")
    return caught.value.problems


def warnings(text: str) -> list[str]:
    return [line.removeprefix("access.toml: ") for line in parse_access(text, path="access.toml").warnings]


def test_the_example_of_the_rfc_is_read() -> None:
    text = RFC.read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
    access = parse_access(text, path="access.toml")

    assert access.users == "/etc/bucketry/htpasswd"
    assert access.groups == {"dev": frozenset({"user:alice", "user:bob"})}
    (issuer,) = access.issuers
    assert (issuer.name, issuer.url) == ("github", "https://token.actions.githubusercontent.com")
    assert (issuer.audience, issuer.keys, issuer.ca) == (("registry.example.com",), None, None)
    first, second = access.rules
    assert first.allow == {Action.PULL, Action.PUSH, Action.OVERWRITE, Action.DELETE}
    assert second.text == (
        'who = ["oidc:github"], claims = { repository_owner = "acme", ref = "refs/heads/main" }, '
        'repositories = ["team/**"], allow = ["pull", "push"]'
    )
    assert [rule.line for rule in access.rules] == [11, 16]
    assert [one.line for one in access.immutables] == [22]
    assert access.certificates == {"CN=alice": "alice"}
    assert access.token is None
    assert access.warnings == ()


def test_everything_else_that_a_file_may_say() -> None:
    access = parse_access(
        """
[token]
realm = "https://auth.example/token"
service = "registry.example.com"
issuer = "auth.example"
jwks = "/etc/keys.json"

[[issuer]]
name = "cluster"
url = "https://kubernetes.default.svc/"
audience = ["a", "b"]
ca = "ca.crt"

[[rule]]  # a comment
who = ["oidc:cluster"]
claims = { kubernetes.io.namespace = ["build", "test-*"], sub = "system:*" }
repositories = ["team/**"]
allow = ["pull"]

[[rule]]
who = ["authenticated"]
allow = ["catalog"]
""",
        path="access.toml",
    )

    assert access.token is not None
    assert access.token.jwks == "/etc/keys.json"
    assert access.issuers[0].url == "https://kubernetes.default.svc/"
    assert access.issuers[0].audience == ("a", "b")
    assert access.issuers[0].ca == "ca.crt"
    assert {name: [glob.pattern for glob in globs] for name, globs in access.rules[0].claims.items()} == {
        "kubernetes.io.namespace": ["build", "test-*"],
        "sub": ["system:*"],
    }
    assert [glob.pattern for glob in access.rules[1].repositories] == ["**"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = [", "is not TOML: Invalid value (at end of document)"),
        ("x = " + "[" * 5000, "is not a file of rules: its lists are nested too deeply"),
        ("colour = 1", "there is no 'colour'; there are users, groups, issuer, rule, immutable, token and certificates"),
        ("[[rules]]\n" + RULE, "there is no 'rules'; did you mean [[rule]]?"),
        ("[rule]\n" + RULE, "rule is not written [[rule]], with its keys below it"),
        ("rule = 3", "rule is not written [[rule]], with its keys below it"),
        ("user = 'x'", "there is no 'user'; did you mean users = \"FILE\", before any [section]?"),
        ("users = 3", "users is not text; put it in quotes"),
        ("users = ' x'", "users is empty, or has spaces around it or control characters in it"),
        (
            "[[rule]]\n" + RULE + "users = 'x'",
            "rule 1 (line 1): there is no 'users'; it stands by itself: users = \"FILE\", before any [section]",
        ),
        ("\n\n[[rule]]\n" + RULE + "alow = []", "rule 1 (line 3): there is no 'alow'; did you mean allow?"),
        ("[[rule]]\n" + RULE + "zzz = []", "rule 1 (line 1): there is no 'zzz'; there are who, claims, repositories and allow"),
        ("[[rule]]\nrepositories = ['a']\nallow = ['pull']", 'rule 1 (line 1): who is missing; write who = ["group:dev", "robot:ci"]'),
        ("[[rule]]\nwho = ['user:a']\nallow = ['pull']", 'rule 1 (line 1): repositories is missing; write repositories = ["team/**"]'),
        ("[[rule]]\nwho = ['user:a']\nrepositories = ['a']", 'rule 1 (line 1): allow is missing; write allow = ["pull", "push"]'),
        ("[[rule]]\nwho = 'user:a'\nrepositories = ['a']\nallow = ['pull']", 'rule 1 (line 1): who is not a list of texts; write who = ["group:dev", "robot:ci"]'),
        ("[[rule]]\nwho = [1]\nrepositories = ['a']\nallow = ['pull']", 'rule 1 (line 1): who is not a list of texts; write who = ["group:dev", "robot:ci"]'),
        ("[groups]\ndev = 'user:a'", 'group dev: members is not a list of texts; write members = ["user:alice", "robot:ci"]'),
        ("[groups]\n'd v' = []", "group d v: the name of a group is at most 64 letters, digits, . _ and -"),
        ("[groups]\ndev = ['group:x']", "group dev: 'group:x': a group has no groups in it; name both in the rule"),
        ("[groups]\ndev = ['oidc:x']", "group dev: 'oidc:x' is in no group; name it in the rule"),
        ("[groups]\ndev = ['authenticated']", "group dev: 'authenticated' is in no group; name it in the rule"),
        ("[groups]\ndev = ['alice']", "group dev: 'alice' is nobody; did you mean user:alice or robot:alice?"),
        ("groups = 3", 'groups is a section: write [groups], and below it dev = ["user:alice"]'),
        ("[[issuer]]\nname = 'g'\nurl = 'http://g.example'\naudience = 'a'", "issuer 1 (line 1): url: 'http://g.example' is not an https URL; write https://host/path"),
        ("[[issuer]]\nname = 'g'\nurl = 'https://u:p@g.example'\naudience = 'a'", "issuer 1 (line 1): url: the URL has a user, a query or a fragment; write https://host/path"),
        ("[[issuer]]\nname = 'g'\nurl = 'https://[::1'\naudience = 'a'", "issuer 1 (line 1): url: 'https://[::1' is not a URL; write https://host/path"),
        ("[[issuer]]\nname = 'g'\nurl = 'https://g.example'", 'issuer 1 (line 1): audience is missing; write audience = "registry.example.com"'),
        ("[[issuer]]\nname = 'g'\nurl = 'https://g.example'\naudience = []", "issuer 1 (line 1): audience is empty: it is what tokens for this registry have in aud"),
        ("[[issuer]]\nname = 'g h'\nurl = 'https://g.example'\naudience = 'a'", "issuer 1 (line 1): 'g h' is no name of an issuer: it is at most 64 letters, digits, . _ and -, such as github"),
        ("[[issuer]]\nname = 'g'\nurl = 'https://g.example'\naudience = 'a'\nkeys = 'k'\nca = 'c'", "issuer 1 (line 1): ca is for fetching keys, which keys has in a file already; leave out one of them"),
        ("[[immutable]]\ntags = ['v?']\nrepositories = ['a']", "immutable 1 (line 1): tags: 'v?' matches no tag; write letters, digits, . _ -, and * for any part of it"),
        ("[[immutable]]\ntags = ['-x']\nrepositories = ['a']", "immutable 1 (line 1): tags: '-x' matches no tag; write letters, digits, . _ -, and * for any part of it"),
        ("token = 3", "token is a section: write [token], and below it realm, service, issuer and jwks"),
        ("[token]\nrealm = 'https://a'\nservice = 's'\nissuer = 'i'", "token: jwks is missing"),
        ("[token]\nrealm = 'https://a'\nservice = 's'\nissuer = 'i'\njwks = 'http://x'", "token: jwks: 'http://x' is not an https URL; write https://host/path, or the path of a file"),
        ("[token]\nrealm = 'https://a'\nservice = 's\"'\nissuer = 'i'\njwks = 'x'", "token: service has other characters than printable ASCII, or quotes: it is sent in a header"),
        ("[token]\nrealm = 'https://a/\",x=\"y'\nservice = 's'\nissuer = 'i'\njwks = 'x'", "token: realm: 'https://a/\",x=\"y' is not an https URL; write https://host/path"),
        ("certificates = 3", 'certificates is a section: write [certificates], and below it "CN=alice" = "user:alice"'),
        ("[certificates]\n'alice' = 'user:alice'", "certificates: 'alice' is no name of a certificate: it is CN=, DNS:, URI: or EMAIL: and what the certificate says there, in printable ASCII, such as CN=builder"),
        ("[certificates]\n'CN=alice' = 'robot:alice'", "certificates, 'CN=alice': 'robot:alice' is nobody; write user:"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_place_and_what_is_right(text: str, problem: str) -> None:
    assert problems(text) == (f"access.toml: {problem}",)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("who = ['alice']", "'alice' is nobody; did you mean user:alice or robot:alice?"),
        ("who = ['users:alice']", "'users:alice' is nobody; did you mean user:alice?"),
        ("who = ['x:alice']", "'x:alice' is nobody; write user:, robot:, group:, oidc: and cert:"),
        ("who = ['Anonymus']", "'Anonymus' is nobody; did you mean anonymous?"),
        ("who = ['user:*']", "'user:*': there are no patterns here; anonymous is everybody, authenticated everybody who has logged in"),
        ("who = ['group:dve']", "'group:dve': there is no such group; did you mean group:dev?"),
        ("who = ['group:zzz']", "'group:zzz': there is no such group; name its members in [groups]"),
        ("who = ['user:\u0430lice']", "'\\u0430lice' is no name of a user: it is printable ASCII without spaces, : and *, such as alice"),
        ("allow = ['pul']", "allow: 'pul' is no action; did you mean pull?"),
        ("allow = ['write']", "allow: 'write' is no action; did you mean push?"),
        ("allow = ['*']", "allow: '*' is no action; did you mean admin?"),
        ("allow = ['xyz']", "allow: 'xyz' is no action; there are pull, push, overwrite, delete, catalog, metrics and admin"),
        ("allow = 'pull'", 'allow is not a list of texts; write allow = ["pull", "push"]'),
        ("repositories = ['Team/*']", "repositories: 'Team/*' matches no repository: write a name in lower case, with * for any part of it, such as team/*, or team/** for all that is below team"),
        ("repositories = ['*a*a*a*b']", "repositories: '*a*a*a*b' has 4 wildcards within its parts: at most 3 are allowed; write several patterns"),
        ("claims = 3", 'claims is not a table; write claims = { repository_owner = "acme" }'),
        ("claims = { ref = 3 }", 'claims.ref is not a list of texts; write claims.ref = "acme"'),
        ("claims = { 'a\\nb' = 'x' }", "claims: {name} is not the name of a claim"),
        ("claims = { ref = 'x', 'r' = '" + "a" * 1025 + "' }", "claims.r: 'aaaaaaaaaaaaaaaaaaaa'... has 1025 characters: at most 1024 are allowed"),
        ("claims = { 'a.b' = 'x', a.b = 'y' }", "claims.a.b is written twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_rule_is_told_with_its_number_and_line(line: str, problem: str) -> None:
    keys = {"who": "who = ['oidc:hub']", "repositories": "repositories = ['a']", "allow": "allow = ['pull']"}
    line = line.replace("a\\nb", "a\u200bb")
    keys[line.partition(" ")[0]] = line
    text = written([]) + "\n# comment\n\n[[rule]]\n" + RULE + "\n[[rule]]\n" + "\n".join(keys.values())
    text = text.replace("one =", "dev =")

    assert problems(text) == (f"access.toml: rule 2 (line 22): {problem}".replace("{name}", r"'a\u200bb'"),)


def test_claims_are_of_id_tokens_only() -> None:
    for who in ("user:alice", "group:two", "authenticated", "cert:CN=x"):
        text = written([Line(("oidc:hub", who), ("a",), ("pull",), {"ref": ("x",)})])
        (problem,) = problems(text)
        assert problem.endswith(
            f"claims are of ID tokens, and '{who}' has none; make a rule of its own for oidc:ISSUER"
        )


def test_everything_that_is_wrong_is_told_at_once() -> None:
    text = "[[rule]]\nwho = ['alice', 'bob']\nrepositories = ['A']\nallow = ['x']\n"
    with pytest.raises(AccessFileInvalid) as caught:
        parse_access(text, path="access.toml")

    assert len(caught.value.problems) == 4
    assert str(caught.value) == caught.value.problems[0] + " (and 3 more)"


def test_two_issuers_cannot_be_told_apart_by_nothing() -> None:
    one = "[[issuer]]\nname = 'g'\nurl = 'https://g.example'\naudience = 'a'\n"

    assert problems(one + one.replace("'g'", "'h'")) == (
        "access.toml: issuer 2 (line 5): issuer 1 (line 1) has the same url and audience: which of them would it be?",
    )
    assert problems(one + one.replace("'a'", "'b'")) == (
        "access.toml: issuer 2 (line 5): issuer 1 (line 1) is called 'g' too; each needs a name of its own",
    )


def test_no_line_is_better_than_a_wrong_one() -> None:
    rule = "[[rule]]\nwho = ['x']\nrepositories = ['a']\nallow = ['pull']\n"
    inline = "rule = [{ who = ['x'], repositories = ['a'], allow = ['pull'] }]\n"

    assert problems("users = '''\n[[rule]]\n'''\n" + rule)[1].startswith("access.toml: rule 1: 'x' is nobody")
    assert problems(inline)[0].startswith("access.toml: rule 1: 'x' is nobody")
    assert problems("\r\n" + rule.replace("\n", "\r\n"))[0].startswith("access.toml: rule 1 (line 2): ")


def test_limits_of_the_file() -> None:
    assert problems("#" * (1024 * 1024 + 1)) == ("access.toml: has 1048577 characters: at most 1048576 are allowed",)
    assert problems("[[rule]]\n" * 2001) == ("access.toml: there are 2001 rules: at most 2000 are allowed",)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="[]{}=\".,\n#'ruleowhapcti*:-_ \u0430\x00", max_size=200))
def test_any_text_is_read_or_refused_in_plain_words(text: str) -> None:
    try:
        parse_access(text, path="access.toml")
    except AccessFileInvalid as error:
        for problem in error.problems:
            assert problem.startswith("access.toml: ")
            assert len(problem) < 500


VALUES = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text(max_size=5), st.sampled_from(["user:a", "pull", "**", "https://a"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["who", "allow", "claims", "repositories", "name", "url", "x"]), inner, max_size=4),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["users", "groups", "issuer", "rule", "immutable", "token", "certificates"]), VALUES)
def test_any_value_anywhere_is_read_or_refused(key: str, value: object) -> None:
    for text in (f"{key} = {inline(value)}", f"{key} = [{inline(value)}]"):
        try:
            parse_access(text, path="access.toml")
        except AccessFileInvalid as error:
            found = error.problems
        else:
            found = ()
        assert all(problem.startswith("access.toml: ") for problem in found)


def inline(value: object) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {inline(item)}' for key, item in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


# Warnings


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        (Line(("group:none",), ("a",), ("pull",)), "rule 1 (line 14) can never match: the group none has no members"),
        (
            Line(("oidc:hbu",), ("a",), ("pull",), {"owner": ("x",)}),
            "rule 1 (line 14) can never match: there is no issuer hbu; did you mean oidc:hub?",
        ),
        (
            Line(("oidc:zz",), ("a",), ("pull",), {"owner": ("x",)}),
            "rule 1 (line 14) can never match: there is no issuer zz; write an [[issuer]] for it",
        ),
        (Line((), ("a",), ("pull",)), "rule 1 (line 14) can never match: who is empty"),
        (Line(("user:a",), (), ("pull",)), "rule 1 (line 14) can never match: repositories is empty"),
        (Line(("user:a",), ("a",), ()), "rule 1 (line 14) can never match: allow is empty"),
        (
            Line(("user:a",), ("team/-*",), ("pull",)),
            "rule 1 (line 14) can never match: 'team/-*' matches no name that a repository can have",
        ),
        (
            Line(("oidc:hub",), ("a",), ("pull",), {"owner": ()}),
            "rule 1 (line 14) can never match: the claim owner has no values",
        ),
        (Line(("user:a", "group:none"), ("a",), ("pull",)), "rule 1 (line 14): the group none has no members"),
        (
            Line(("user:a",), ("a", "b_"), ("pull",)),
            "rule 1 (line 14): 'b_' matches no name that a repository can have",
        ),
        (
            Line(("oidc:hub",), ("a",), ("pull",)),
            "rule 1 (line 14): every token of oidc:hub will do, whoever got it: bind it by claims, such as "
            "repository_owner",
        ),
        (
            Line(("oidc:hub",), ("a",), ("pull",), {"owner": ("*",), "ref": ("x", "**")}),
            "rule 1 (line 14): every token of oidc:hub will do, whoever got it: bind it by claims, such as "
            "repository_owner",
        ),
        (
            Line(("authenticated",), ("a",), ("pull",)),
            "rule 1 (line 14): authenticated is everybody with a token of oidc:hub, oidc:lab too, whoever got it: "
            "name groups instead",
        ),
    ],
)
def test_a_rule_that_is_surely_not_meant_is_warned_of(line: Line, warning: str) -> None:
    assert warnings(written([line])) == [warning]


def test_what_has_no_effect_is_warned_of() -> None:
    assert warnings("") == ["there are no rules, so nobody may do anything: write a [[rule]], or do not name the file"]
    assert warnings("[[rule]]\n" + RULE) == [
        'rule 1 (line 1) names users, and there is no file of them: write users = "/path/to/htpasswd"'
    ]
    immutable = "[[immutable]]\ntags = []\nrepositories = ['**']\n[[immutable]]\ntags = ['a']\nrepositories = ['a_']\n"
    assert warnings("users = 'x'\n" + immutable + "[[rule]]\n" + RULE) == [
        "immutable 1 (line 2) makes nothing immutable: it has no tags",
        "immutable 2 (line 5): 'a_' matches no name that a repository can have",
    ]


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [
        (Line(("group:two",), ("team/**",), ("pull", "push")), Line(("user:alice",), ("team/*",), ("pull",)), 2),
        (Line(("user:alice",), ("team/*",), ("pull",)), Line(("group:two",), ("team/**",), ("pull", "push")), 1),
        (Line(("user:alice",), ("a",), ("pull",)), Line(("user:alice",), ("a",), ("pull",)), 2),
        (Line(("anonymous",), ("**",), ("pull",)), Line(("oidc:hub",), ("a",), ("pull",), {"o": ("x",)}), 2),
        (Line(("user:alice",), ("**",), ("admin",)), Line(("user:alice",), ("a",), ("delete", "catalog")), 2),
        (
            Line(("oidc:hub",), ("**",), ("pull",), {"o": ("x*",)}),
            Line(("oidc:hub",), ("a",), ("pull",), {"o": ("xy", "xz*"), "p": ("q",)}),
            2,
        ),
        (
            Line(("oidc:hub",), ("**",), ("pull",), {"o": ("x",), "p": ("q",)}),
            Line(("oidc:hub",), ("a",), ("pull",), {"o": ("x",)}),
            None,
        ),
        (Line(("user:alice",), ("team/*",), ("pull",)), Line(("user:bob",), ("team/*",), ("pull",)), None),
        (Line(("user:alice",), ("team/*",), ("pull",)), Line(("user:alice",), ("team/**",), ("pull",)), 1),
        (Line(("user:alice",), ("team/*",), ("pull",)), Line(("user:alice",), ("team/*",), ("push",)), None),
        (Line(("user:alice",), ("a",), ("catalog",)), Line(("user:alice",), ("b",), ("catalog",)), 2),
    ],
)
def test_a_rule_that_another_covers_is_warned_of(first: Line, second: Line, warned: int | None) -> None:
    found = [line for line in warnings(written([first, second])) if "adds nothing" in line]

    if warned is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(f"rule {warned} (line ")
        assert f"adds nothing: rule {3 - warned} (line" in found[0]
        assert found[0].endswith("allows all of it")


@settings(max_examples=120, deadline=None)
@given(rule_lines)
def test_without_the_rules_that_are_warned_of_the_same_is_allowed(lines: list[Line]) -> None:
    idle = {
        int(warning.split()[1])
        for warning in warnings(written(lines))
        if "can never match" in warning or "adds nothing" in warning
    }
    left = [line for number, line in enumerate(lines, 1) if number not in idle]

    assert allowed(left, GROUPS, PEOPLE, NAMES) == allowed(lines, GROUPS, PEOPLE, NAMES)


def test_a_large_file_is_read_in_little_time() -> None:
    lines = [Line((f"user:u{n}", "group:two"), (f"team-{n}/**", f"*-{n}/x-?"), ("pull",)) for n in range(500)]
    began = time.perf_counter()
    parse_access(written(lines), path="access.toml")

    assert time.perf_counter() - began < 10


# Certificates


@pytest.mark.parametrize(
    ("names", "principal"),
    [
        (["CN=nobody", "DNS:mapped.example"], "user:alice"),
        (["CN=nobody", "DNS:MAPPED.example"], "user:alice"),
        (["CN=nobody", "DNS:named.example"], "cert:DNS:named.example"),
        (["CN=nobody", "CN=member"], "cert:CN=member"),
        (["CN=member", "DNS:named.example"], "cert:CN=member"),
        (["CN=nobody", "DNS:unknown.example"], "cert:CN=nobody"),
        (["CN=\u0430", "CN=*", "CN=x"], "cert:CN=x"),
        (["CN=\u0430"], None),
        ([], None),
    ],
)
def test_whom_a_certificate_stands_for(names: list[str], principal: str | None) -> None:
    access = parse_access(
        "users = 'u'\n[groups]\ng = ['cert:CN=member']\n[certificates]\n'DNS:mapped.example' = 'user:alice'\n"
        "[[rule]]\nwho = ['cert:DNS:named.example', 'group:g']\nrepositories = ['**']\nallow = ['pull']\n",
        path="access.toml",
    )
    found = access.certificate(names)

    assert (str(found) if found else None) == principal
    assert found is None or found.method is Method.CERTIFICATE
    assert access.named == {"cert:DNS:named.example": "rule 1 (line 6)", "cert:CN=member": "the group g"}
