"""What an answer's headers and an error's text are taken for."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import cast

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from bucketry.transfer.errors import Misconfigured, Unreachable
from bucketry.transfer.remote.answer import MAX_RETRY_AFTER, MAX_TEXT, Answer, clean, translated

NOW = 1795518900.0  # Tue, 24 Nov 2026 11:15:00 GMT


@dataclass
class Head:
    status: int = 503
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    url: URL = field(default_factory=lambda: URL("https://reg.example/v2/"))


def answer(**headers: str) -> Answer:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Answer(cast(aiohttp.ClientResponse, Head(headers=named)), at=NOW)


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("5", "", 5.0),
        (" 0 ", "", 0.0),
        ("999999999", "", MAX_RETRY_AFTER),
        ("99999999999999999999", "", None),
        ("-1", "", None),
        ("1.5", "", None),
        ("soon", "", None),
        ("", "", None),
        ("Tue, 24 Nov 2026 11:15:20 GMT", "", 20.0),
        ("Tue, 24 Nov 2026 11:15:20 GMT", "Tue, 24 Nov 2026 11:15:10 GMT", 10.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", "", 0.0),
        ("Tue, 24 Nov 2099 11:00:00 GMT", "", MAX_RETRY_AFTER),
        ("Tue, 24 Nov 2026 11:15:20", "", 20.0),
    ],
)
def test_how_long_to_wait(text: str, date: str, seconds: float | None) -> None:
    assert answer(Retry_After=text, Date=date).retry_after() == seconds


@given(st.one_of(st.text(max_size=60), st.from_regex(r"\w{3}, \d{1,9} \w{3} \d{1,12} \d+:\d+:\d+ [+-]\d{1,30}")))
@settings(max_examples=300, deadline=None)
def test_no_date_is_an_error(text: str) -> None:
    seconds = answer(Retry_After=text, Date=text).retry_after()
    skew = answer(Date=text).skew()

    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER
    assert skew is None or isinstance(skew, float)


@pytest.mark.parametrize(
    ("text", "length"),
    [("", None), ("0", 0), ("17", 17), ("-1", None), ("1e3", None), ("\u0661", None), ("9" * 30, None)],
)
def test_a_length_is_a_number(text: str, length: int | None) -> None:
    assert answer(Content_Length=text).length == length


@pytest.mark.parametrize(
    ("text", "media_type"),
    [("Application/JSON; charset=utf-8", "application/json"), ("", ""), ("text/html", "text/html")],
)
def test_a_media_type_has_no_parameters(text: str, media_type: str) -> None:
    assert answer(Content_Type=text).media_type == media_type


@given(st.text(max_size=3 * MAX_TEXT))
@settings(max_examples=100, deadline=None)
def test_text_of_strangers_is_short_printable_and_on_one_line(text: str) -> None:
    shown = clean(text)

    assert shown.isprintable()
    assert len(shown) <= MAX_TEXT + 3
    assert shown == " ".join(shown.split())


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "put client.cert and client.key into /etc/docker/certs.d/reg.example"),
        ("TLSV1_ALERT_UNKNOWN_CA", "does not take the client certificate in certs.d/reg.example (unknown ca)"),
        (
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "does not take the client certificate in certs.d/reg.example (certificate ",
        ),
        ("TLSV1_ALERT_DECRYPT_ERROR", "does not take the client certificate in certs.d/reg.example (decrypt error)"),
    ],
)
def test_what_a_server_says_of_a_client_certificate_is_passed_on(reason: str, says: str) -> None:
    told = ssl.SSLError(1, reason)
    told.reason = reason
    with pytest.raises(Misconfigured) as caught, translated("reg.example"):
        raise aiohttp.ClientOSError(1, reason) from told
    assert says in str(caught.value)


def test_another_word_of_tls_is_a_connection_that_broke() -> None:
    told = ssl.SSLError(1, "TLSV1_ALERT_INTERNAL_ERROR")
    told.reason = "TLSV1_ALERT_INTERNAL_ERROR"
    with pytest.raises(Unreachable, match="the connection broke"), translated("reg.example"):
        raise aiohttp.ClientOSError(1, "") from told
