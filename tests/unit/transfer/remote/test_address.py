"""Addresses: whose they are, and which are none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from bucketry.transfer.remote.address import (
    MAX_ADDRESS,
    authority_of,
    is_loopback,
    registry_origin,
    resolve,
    same_origin,
    shown,
)

BASE = URL("https://reg.example/v2/team/app/blobs/uploads/")


@pytest.mark.parametrize(
    ("host", "plain", "origin"),
    [
        ("reg.example", False, "https://reg.example"),
        ("reg.example:5000", True, "http://reg.example:5000"),
        ("[::1]:5000", True, "http://[::1]:5000"),
        ("docker.io", False, "https://registry-1.docker.io"),
    ],
)
def test_a_registry_has_an_origin(host: str, plain: bool, origin: str) -> None:
    assert registry_origin(host, plain=plain) == URL(origin)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "app.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["localhost.example", "mylocalhost", "128.0.0.1", "0.0.0.0", "127.0.0.1.example", "", "127.1"]
)
def test_nobody_else_is_this_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/v2/x?_state=a%2Fb+c", "https://reg.example/v2/x?_state=a%2Fb+c"),
        ("?a=b", "https://reg.example/v2/team/app/blobs/uploads/?a=b"),
        ("id", "https://reg.example/v2/team/app/blobs/uploads/id"),
        ("//other.example/x", "https://other.example/x"),
        ("http://other.example:81/a%20b?X-Amz-Signature=%2B#part", "http://other.example:81/a%20b?X-Amz-Signature=%2B"),
        ("HTTPS://other.example/", "https://other.example/"),
    ],
)
def test_an_address_stays_as_it_is_written(text: str, address: str) -> None:
    assert str(resolve(BASE, text)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "ftp://other.example/",
        "http:///path",
        "http://",
        "https:path",
        "https://user:password@other.example/",
        "https://user@other.example/",
        "https://reg.example@evil.example/",
        "//@0/",
        "/a b",
        "/a\r\nX: y",
        "/a\x00",
        "/ä",
        "http://other.example:99999/",
        "http://[::1/",
        "/" + "x" * MAX_ADDRESS,
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        resolve(BASE, text)


@pytest.mark.parametrize(
    ("address", "same"),
    [
        ("https://reg.example/other", True),
        ("https://reg.example:443/", True),
        ("https://REG.example/", True),
        ("http://reg.example/", False),
        ("https://reg.example:444/", False),
        ("https://sub.reg.example/", False),
        ("https://reg.example.evil/", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(address: str, same: bool) -> None:
    assert same_origin(BASE, resolve(BASE, address)) is same


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(st.sampled_from("ahtp:/@?#[]%.\\0"), max_size=40),
        st.from_regex(r"https?://[!-~]{0,30}", fullmatch=True),
    )
)
@settings(max_examples=500, deadline=None)
def test_whatever_is_written_is_an_address_or_refused(text: str) -> None:
    try:
        url = resolve(BASE, text)
    except ValueError:
        return

    assert url.scheme in ("http", "https")
    assert url.host
    assert url.raw_user is None
    assert url.raw_password is None
    assert str(url).isascii()
    assert str(url).isprintable()
    assert " " not in str(url)
    assert "@" not in url.raw_authority


def test_messages_show_no_path_and_no_query() -> None:
    assert shown(URL("https://bucket.example:444/key?X-Amz-Signature=secret")) == "https://bucket.example:444"
    assert authority_of(URL("http://[::1]:80/x")) == "[::1]"
