"""Credentials as botocore finds them, without a network: everything is in variables and files."""

from __future__ import annotations

import asyncio
import datetime
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import CredentialRetrievalError, EndpointConnectionError, ProfileNotFound
from botocore.session import Session

from bucketry.store.contract import AccessDenied, Unavailable
from bucketry.store.s3 import S3Settings, S3Store
from bucketry.store.s3.credentials import (
    FORCE_SECONDS,
    FRESH_SECONDS,
    STALE_SECONDS,
    FixedCredentials,
    FoundCredentials,
    look_around,
)

VARIABLES = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_CA_BUNDLE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
]


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An AWS configuration folder of our own; no variable and no instance role of this machine counts."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def around(**changes: Any) -> Any:
    return look_around(S3Settings(bucket="bucket", **changes), clock=lambda: 0.0)


# Where


def test_given_settings_need_no_botocore() -> None:
    code = (
        "import sys; from bucketry.store.s3 import S3Settings\n"
        "from bucketry.store.s3.credentials import look_around\n"
        "settings = S3Settings(bucket='bucket', endpoint='http://x:1', access_key='a', secret_key='s')\n"
        "look_around(settings, clock=lambda: 0.0)\n"
        "sys.exit('botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("endpoint", ["settings", "environment"])
def test_what_the_environment_has_needs_no_botocore(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    if endpoint == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://x:1")
    code = (
        "import sys; from bucketry.store.s3 import S3Settings\n"
        "from bucketry.store.s3.credentials import look_around\n"
        f"settings = S3Settings(bucket='bucket', endpoint={'http://x:1' if endpoint == 'settings' else None!r})\n"
        "found = look_around(settings, clock=lambda: 0.0)\n"
        "print(found.endpoint, found.credentials.current().access_key, 'botocore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["http://x:1", "a", "False"]


@pytest.mark.parametrize("file", [None, "config", "credentials"])
@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"AWS_SESSION_TOKEN": "session"},
        {"AWS_SESSION_TOKEN": "session", "AWS_SECURITY_TOKEN": "older"},
        {"AWS_SESSION_TOKEN": "session", "AWS_SECURITY_TOKEN": ""},
        {"AWS_SESSION_TOKEN": ""},
        {"AWS_CREDENTIAL_EXPIRATION": ""},
        {"AWS_CREDENTIAL_EXPIRATION": "2099-01-01T00:00:00Z"},
        {"AWS_PROFILE": "other"},
        {"AWS_DEFAULT_PROFILE": "other"},
        {"AWS_PROFILE": ""},
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/a"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost:1/"},
        {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_CA_BUNDLE": "/bundle"},
        {"AWS_ENDPOINT_URL": "http://one:1"},
        {"AWS_ENDPOINT_URL": "http://one:1", "AWS_ENDPOINT_URL_S3": "http://two:2"},
        {"AWS_ENDPOINT_URL": "http://one:1", "AWS_ENDPOINT_URL_S3": ""},
        {"AWS_ENDPOINT_URL": "http://one:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        {"AWS_ENDPOINT_URL": "http://one:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false"},
    ],
)
async def test_keys_of_the_environment_are_used_as_botocore_does(
    aws: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], file: str | None
) -> None:
    keys = "aws_access_key_id = F\naws_secret_access_key = f\n"
    also = "region = sa-east-1\nca_bundle = /from/file\nendpoint_url = http://file:3\n"
    if file is not None:
        other = "[profile other]" if file == "config" else "[other]"
        (aws / file).write_text(f"[default]\n{keys}{also}{other}\n{keys}region = ap-south-1\n")
    for name, value in {"AWS_ACCESS_KEY_ID": "E", "AWS_SECRET_ACCESS_KEY": "e", **environ}.items():
        monkeypatch.setenv(name, value)
    oracle = Session()
    try:
        credentials = oracle.get_credentials()
        assert credentials is not None
        frozen = credentials.get_frozen_credentials()
        client = oracle.create_client("s3", region_name=oracle.get_config_variable("region") or "us-east-1")
        region, ca_bundle = client.meta.region_name, oracle.get_config_variable("ca_bundle")
    except ProfileNotFound:
        with pytest.raises(AccessDenied, match="profile"):
            around()
        return
    found = around()
    identity = await found.credentials.get()
    assert (identity.access_key, identity.secret_key, identity.token) == frozen[:3]
    assert "AWS_ACCESS_KEY_ID" in identity.source
    assert (found.region, found.ca_bundle) == (region, ca_bundle)
    # What it makes of us-east-1 is its own: the oldest region has a name without the region too.
    assert found.endpoint == client.meta.endpoint_url.replace("//s3.amazonaws.com", "//s3.us-east-1.amazonaws.com")


async def test_keys_of_the_environment_that_expire_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "e")
    found = around(endpoint="http://x:1").credentials
    assert found.current() is not None
    assert not await found.renew()
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2099-01-01T00:00:00Z")
    found = around(endpoint="http://x:1").credentials
    assert (await found.get()).access_key == "E"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "N")
    assert await found.renew()
    assert (await found.get()).access_key == "N"


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("value", [None, ""])
async def test_half_a_key_in_the_environment_is_none(
    monkeypatch: pytest.MonkeyPatch, missing: str, value: str | None
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "E")
    if value is None:
        monkeypatch.delenv(missing)
    else:
        monkeypatch.setenv(missing, value)
    with pytest.raises(AccessDenied, match="AWS_SECRET_ACCESS_KEY"):
        await around(endpoint="http://x:1").credentials.get()


async def test_a_profile_that_is_asked_for_goes_before_the_environment(
    aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "e")
    (aws / "config").write_text("[profile other]\naws_access_key_id = O\naws_secret_access_key = o\n")
    found = around(endpoint="http://x:1", profile="other").credentials
    assert (await found.get()).access_key == "O"


def test_without_anything_it_is_aws_in_virginia() -> None:
    found = around()
    assert (found.endpoint, found.region, found.ca_bundle) == ("https://s3.us-east-1.amazonaws.com", "us-east-1", None)


@pytest.mark.parametrize(
    ("environ", "region"),
    [
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_PROFILE": "other"}, "ap-south-1"),
        ({}, "sa-east-1"),
    ],
)
def test_the_region_is_found(aws: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], region: str) -> None:
    (aws / "config").write_text("[default]\nregion = sa-east-1\n[profile other]\nregion = ap-south-1\n")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = around()
    assert (found.region, found.endpoint) == (region, f"https://s3.{region}.amazonaws.com")
    assert around(region="eu-north-1").region == "eu-north-1"


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"AWS_ENDPOINT_URL": "http://one:1"}, "http://one:1"),
        ({"AWS_ENDPOINT_URL": "http://one:1", "AWS_ENDPOINT_URL_S3": "http://two:2"}, "http://two:2"),
        ({"AWS_PROFILE": "minio"}, "http://three:3"),
        (
            {"AWS_ENDPOINT_URL": "http://one:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "https://s3.us-east-1.amazonaws.com",
        ),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "https://s3.dualstack.us-east-1.amazonaws.com"),
        ({"AWS_REGION": "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_the_endpoint_is_found(
    aws: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], endpoint: str
) -> None:
    (aws / "config").write_text("[profile minio]\nendpoint_url = http://three:3\n")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert around().endpoint == endpoint
    assert around(endpoint="http://mine:4").endpoint == "http://mine:4"


def test_wrong_surroundings_are_told(aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="did you mean eu-west-1"):
        around(region="euwest-1")
    with pytest.raises(AccessDenied, match="nobody"):
        around(profile="nobody")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(ValueError, match="did you mean"):
        around()
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    (aws / "config").write_text("this is no configuration\n")
    with pytest.raises(AccessDenied, match="configuration"):
        around()


async def test_a_store_that_cannot_start_says_so_in_one_line(aws: Path) -> None:
    store = S3Store(S3Settings(bucket="bucket", region="mars-1"))
    with pytest.raises(Exception, match="s3://bucket cannot be used: AWS has no region 'mars-1'") as raised:
        await store.start()
    assert "\n" not in str(raised.value)


def test_the_bundle_of_certificates_is_found(aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (aws / "config").write_text("[default]\nca_bundle = /from/profile\n")
    assert around().ca_bundle == "/from/profile"
    monkeypatch.setenv("AWS_CA_BUNDLE", "/from/environ")
    assert around().ca_bundle == "/from/environ"
    assert around(ca_bundle="/mine").ca_bundle == "/mine"


# Which


async def test_credentials_come_from_the_environment_or_a_profile(aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (aws / "credentials").write_text(
        "[default]\naws_access_key_id = D\naws_secret_access_key = d\n"
        "[other]\naws_access_key_id = O\naws_secret_access_key = o\naws_session_token = t\n"
    )
    assert (await around().credentials.get()).access_key == "D"
    other = await around(profile="other").credentials.get()
    assert (other.access_key, other.secret_key, other.token) == ("O", "o", "t")
    assert "~/.aws/credentials" in other.source
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "e")
    found = around().credentials
    assert (await found.get()).access_key == "E"
    assert "AWS_ACCESS_KEY_ID" in found.source


async def test_without_credentials_the_error_lists_where_it_looked() -> None:
    with pytest.raises(AccessDenied) as raised:
        await around(profile=None).credentials.get()
    for place in ("AWS_ACCESS_KEY_ID", "'default'", "SSO", "web identity", "instance role", "anonymous=true"):
        assert place in str(raised.value)


async def test_a_credential_process_that_fails_is_denied(aws: Path) -> None:
    (aws / "config").write_text("[default]\ncredential_process = false\n")
    with pytest.raises(AccessDenied, match="credential"):
        await around().credentials.get()


async def test_anonymous_and_given_credentials_stay() -> None:
    nobody = around(anonymous=True).credentials
    assert isinstance(nobody, FixedCredentials)
    assert await nobody.get() is None
    given = around(access_key="A", secret_key="s").credentials
    assert (await given.get()).access_key == "A"
    assert given.current() == await given.lasting(1e9)
    assert not await given.renew()


# How long


class Role:
    """A role whose credentials are numbered, and live as long as they are told."""

    def __init__(self, lifetime: float = 3600) -> None:
        self.now = 1_800_000_000.0
        self.lifetime = lifetime
        self.given = 0
        self.error: Exception | None = None
        self.hold: threading.Event | None = None

    def clock(self) -> float:
        return self.now

    def fetch(self) -> dict[str, str]:
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.error is not None:
            raise self.error
        self.given += 1
        ends = datetime.datetime.fromtimestamp(self.now + self.lifetime, datetime.UTC)
        return {
            "access_key": f"A{self.given}",
            "secret_key": "s",
            "token": "t",
            "expiry_time": ends.isoformat(),
        }

    def find(self) -> RefreshableCredentials:
        found: RefreshableCredentials = RefreshableCredentials.create_from_metadata(
            self.fetch(), refresh_using=self.fetch, method="iam-role"
        )
        found._time_fetcher = lambda: datetime.datetime.fromtimestamp(self.now, datetime.UTC)  # type: ignore[attr-defined]
        return found

    def credentials(self) -> FoundCredentials:
        return FoundCredentials(self.find, missing="nothing", clock=self.clock)


async def key(waiting: Any) -> str:
    found = await waiting
    assert found is not None
    return str(found.access_key)


async def settled(credentials: FoundCredentials) -> None:
    while credentials._running is not None and not credentials._running.done():
        await asyncio.sleep(0.001)


async def test_one_lookup_serves_all_who_wait() -> None:
    role = Role()
    role.hold = threading.Event()
    credentials = role.credentials()
    waiting = [asyncio.create_task(key(credentials.get())) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert credentials.current() is None
    role.hold.set()
    assert await asyncio.gather(*waiting) == ["A1"] * 20
    assert role.given == 1


async def test_one_who_stops_waiting_does_not_stop_the_others() -> None:
    role = Role()
    role.hold = threading.Event()
    credentials = role.credentials()
    one, other = (asyncio.create_task(key(credentials.get())) for _ in range(2))
    await asyncio.sleep(0.02)
    one.cancel()
    await asyncio.sleep(0.02)
    role.hold.set()
    assert await other == "A1"


async def test_they_are_renewed_ahead_of_time_while_requests_go_on() -> None:
    role = Role(lifetime=3600)
    credentials = role.credentials()
    assert await key(credentials.get()) == "A1"
    seen = []
    for _ in range(60):
        role.now += FRESH_SECONDS + 1
        found = credentials.current()
        assert found is not None, "nobody waits for a renewal"
        seen.append(found.access_key)
        await settled(credentials)
    assert sorted(set(seen)) == ["A1", "A2"]
    assert role.given == 2
    assert seen.index("A2") * (FRESH_SECONDS + 1) < 3600 - 300, "renewed long before the end"


async def test_after_a_long_pause_they_are_waited_for() -> None:
    role = Role(lifetime=3600)
    credentials = role.credentials()
    await credentials.get()
    role.now += 4000
    assert credentials.current() is None
    assert await key(credentials.get()) == "A2"


async def test_a_renewal_that_fails_early_is_no_error_yet() -> None:
    role = Role(lifetime=1000)
    credentials = role.credentials()
    await credentials.get()
    role.error = CredentialRetrievalError(provider="iam-role", error_msg="try later")
    role.now += 200  # within botocore's window of 15 minutes, and not yet in that of 10
    assert await key(credentials.get()) == "A1"
    await settled(credentials)
    assert await key(credentials.get()) == "A1"
    role.now += 900
    with pytest.raises(AccessDenied, match="the instance's role"):
        await credentials.get()
    role.error = None
    assert await key(credentials.get()) == "A2"


async def test_a_source_that_does_not_answer_is_unavailable() -> None:
    role = Role()
    role.error = EndpointConnectionError(endpoint_url="https://sts.example")
    with pytest.raises(Unavailable, match="sts"):
        await role.credentials().get()


async def test_a_forced_renewal_starts_over_but_not_all_the_time() -> None:
    role = Role()
    credentials = role.credentials()
    await credentials.get()
    assert await credentials.renew()
    assert await key(credentials.get()) == "A2"
    assert not await credentials.renew()
    role.now += FORCE_SECONDS
    assert await credentials.renew()
    assert role.given == 3


@pytest.mark.parametrize(("seconds", "expected"), [(60, "A1"), (3000, "A1"), (3601, "A2")])
async def test_urls_are_signed_with_credentials_that_outlive_them(seconds: float, expected: str) -> None:
    role = Role(lifetime=3600)
    credentials = role.credentials()
    await credentials.get()
    role.now += 1
    assert await key(credentials.lasting(seconds)) == expected


async def test_a_role_whose_credentials_never_live_that_long_is_not_asked_each_time() -> None:
    role = Role(lifetime=3600)
    credentials = role.credentials()
    for _ in range(50):
        await credentials.lasting(7200)
        role.now += 1
    assert role.given == 2
    role.now += STALE_SECONDS
    await credentials.lasting(7200)
    assert role.given == 3


async def test_urls_are_still_signed_where_the_role_cannot_be_asked() -> None:
    role = Role(lifetime=3600)
    credentials = role.credentials()
    await credentials.get()
    role.error = EndpointConnectionError(endpoint_url="https://sts.example")
    assert await key(credentials.lasting(7200)) == "A1"


async def test_keys_of_a_file_that_changed_are_read_again_when_forced(aws: Path) -> None:
    text = "[default]\naws_access_key_id = {0}\naws_secret_access_key = s\n"
    (aws / "credentials").write_text(text.format("OLD"))
    credentials = around().credentials
    assert await key(credentials.get()) == "OLD"
    (aws / "credentials").write_text(text.format("NEW"))
    assert await credentials.renew()
    assert await key(credentials.get()) == "NEW"


async def test_closing_ends_a_lookup() -> None:
    role = Role()
    role.hold = threading.Event()
    credentials = role.credentials()
    waiting = asyncio.create_task(key(credentials.get()))
    await asyncio.sleep(0.02)
    await credentials.close()
    role.hold.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def empty(key: str, secret: str) -> Callable[[], Credentials]:
    return lambda: Credentials(key, secret, method="env")


@pytest.mark.parametrize(("access", "secret"), [("", "s"), ("a", "")])
async def test_an_empty_key_is_told(access: str, secret: str) -> None:
    credentials = FoundCredentials(empty(access, secret), missing="nothing", clock=lambda: 0.0)
    with pytest.raises(AccessDenied, match="empty"):
        await credentials.get()
