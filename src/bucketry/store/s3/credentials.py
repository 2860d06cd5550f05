"""Credentials and the endpoint, as botocore finds them: environment, profiles, SSO, web identity, container and
instance roles. botocore blocks, is slow to import and takes a process 10 MiB of memory: it is imported late, only ever
runs in a thread, and is left aside where the environment has everything and there is no configuration file.
"""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bucketry.store.contract import AccessDenied, StoreError, Unavailable
from bucketry.store.s3.config import S3Settings, check_endpoint
from bucketry.store.s3.signing import Identity

if TYPE_CHECKING:
    from botocore.credentials import Credentials as BotocoreCredentials
    from botocore.session import Session

FRESH_SECONDS = 60.0
"""So long the last answer of botocore is used as it is. botocore itself renews 10 to 15 minutes before the end."""

STALE_SECONDS = 300.0
"""After so long without a request the caller waits for botocore instead of asking it in the background."""

FORCE_SECONDS = 30.0
"""A forced refresh is not repeated within this time."""

_SOURCES: Mapping[str, str] = {
    "env": "the environment (AWS_ACCESS_KEY_ID)",
    "shared-credentials-file": "~/.aws/credentials",
    "config-file": "~/.aws/config",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
    "sso": "SSO",
    "login": "aws login",
    "custom-process": "credential_process",
    "container-role": "the container's role",
    "iam-role": "the instance's role",
}


class Credentials(Protocol):
    """Where requests get their identity from; None means that they are not signed."""

    @property
    def source(self) -> str:
        """Where they were found, for people."""
        ...

    def current(self) -> Identity | None:
        """What to sign with where that is known without waiting."""
        ...

    async def get(self) -> Identity | None:
        """What to sign with. Raises `AccessDenied` where there is nothing, `Unavailable` where nobody answers."""
        ...

    async def lasting(self, seconds: float) -> Identity | None:
        """As `get`, renewed first where it would expire within so many seconds."""
        ...

    async def renew(self) -> bool:
        """Looks everything up again, and says whether that gave other credentials."""
        ...

    async def close(self) -> None: ...


class FixedCredentials:
    """Credentials that were given, or none at all for anonymous requests."""

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity

    @property
    def source(self) -> str:
        return "nowhere: requests are anonymous" if self._identity is None else self._identity.source

    def current(self) -> Identity | None:
        return self._identity

    async def get(self) -> Identity | None:
        return self._identity

    async def lasting(self, seconds: float) -> Identity | None:
        return self._identity

    async def renew(self) -> bool:
        return False

    async def close(self) -> None:
        pass


class FoundCredentials:
    """Credentials found by botocore.

    One lookup runs at a time, and all who wait share it. Short-lived credentials are renewed in the background well
    before they expire; a renewal that fails is no error before they do. ``find`` makes botocore look from the very
    beginning, so that files and variables that changed are read again.
    """

    def __init__(
        self, find: Callable[[], BotocoreCredentials | None], *, missing: str, clock: Callable[[], float]
    ) -> None:
        self._find = find
        self._missing = missing
        self._clock = clock
        self._holder: BotocoreCredentials | None = None
        self._identity: Identity | None = None
        self._asked = float("-inf")
        self._forced = float("-inf")
        self._refreshes = False
        self._running: asyncio.Task[None] | None = None

    @property
    def source(self) -> str:
        return "botocore" if self._identity is None else self._identity.source

    def current(self) -> Identity | None:
        if self._identity is None or not self._refreshes:
            return self._identity
        age = self._clock() - self._asked
        if 0 <= age < FRESH_SECONDS:
            return self._identity
        if not 0 <= age < STALE_SECONDS:
            return None
        self._start(force=False)
        return self._identity

    async def get(self) -> Identity | None:
        found = self.current()
        if found is None:
            await asyncio.shield(self._start(force=False))
            found = self._identity
        return found

    async def lasting(self, seconds: float) -> Identity | None:
        found = await self.get()
        if self._ends_within(seconds) and self._clock() - self._forced >= STALE_SECONDS:
            # Roles give what they give: where even new credentials end too early, they are not asked for each URL.
            # Where that fails, the old ones still serve.
            with suppress(StoreError):
                await self.renew()
            found = self._identity
        return found

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def renew(self) -> bool:
        before = self._identity
        if 0 <= self._clock() - self._forced < FORCE_SECONDS:
            return False
        if self._running is not None:
            await asyncio.wait([self._running])
        self._forced = self._clock()
        await asyncio.shield(self._start(force=True))
        return self._identity != before

    def _ends_within(self, seconds: float) -> bool:
        from botocore.credentials import RefreshableCredentials

        holder = self._holder
        return isinstance(holder, RefreshableCredentials) and holder.refresh_needed(refresh_in=int(seconds))

    def _start(self, *, force: bool) -> asyncio.Task[None]:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._look(force))
            # Who waits gets the failure; where nobody waits, the next one who does will.
            self._running.add_done_callback(_retrieve)
        return self._running

    async def _look(self, force: bool) -> None:
        holder, identity, refreshes = await asyncio.to_thread(self._ask, None if force else self._holder)
        self._holder, self._identity, self._refreshes = holder, identity, refreshes
        self._asked = self._clock()

    def _ask(self, holder: BotocoreCredentials | None) -> tuple[BotocoreCredentials, Identity, bool]:
        """Runs in a thread."""
        from botocore.credentials import RefreshableCredentials
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

        try:
            holder = holder or self._find()
            if holder is None:
                raise AccessDenied(self._missing)
            frozen = holder.get_frozen_credentials()
        except (ConnectionError, HTTPClientError) as error:
            raise Unavailable(f"credentials for S3 could not be fetched: {error}") from error
        # botocore raises RuntimeError for credentials that are expired though they were just renewed.
        except (BotoCoreError, ClientError, RuntimeError, OSError) as error:
            source = _SOURCES.get(holder.method, holder.method) if holder is not None else "botocore"
            raise AccessDenied(f"no credentials for S3: {source}: {error}") from error
        source = _SOURCES.get(holder.method, holder.method)
        if not frozen.access_key or not frozen.secret_key:
            raise AccessDenied(f"no credentials for S3: {source} has an empty key")
        identity = Identity(frozen.access_key, frozen.secret_key, frozen.token or None, source)
        return holder, identity, isinstance(holder, RefreshableCredentials)


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the settings leave to the environment, found."""

    endpoint: str
    region: str
    ca_bundle: str | None
    credentials: Credentials


def look_around(
    settings: S3Settings, *, clock: Callable[[], float], environ: Mapping[str, str] = os.environ
) -> Surroundings:
    """Fills in what the settings leave open. Blocks: run it in a thread. Without need botocore is not imported.

    ``environ`` stands for the environment of this process, which botocore reads by itself.

    Raises `ValueError` for settings of the environment that cannot work, `AccessDenied` for an unknown profile.
    """
    credentials: Credentials | None = None
    if settings.anonymous:
        credentials = FixedCredentials(None)
    elif settings.access_key is not None and settings.secret_key is not None:
        credentials = FixedCredentials(Identity(settings.access_key, settings.secret_key, settings.session_token))
    # botocore does not read AWS_REGION, which every other SDK does and which EKS and Lambda set.
    region = settings.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    ca_bundle = settings.ca_bundle or environ.get("AWS_CA_BUNDLE")
    if credentials is not None and settings.endpoint is not None and settings.profile is None:
        return Surroundings(settings.endpoint, region or "us-east-1", ca_bundle, credentials)
    if settings.profile is None and not _has_profiles(environ):
        credentials = credentials or _credentials_of_environment(environ)
        endpoint = settings.endpoint or _endpoint_of_environment(environ)
        if credentials is not None and endpoint is not None:
            check_endpoint("the endpoint of the AWS configuration", endpoint)
            return Surroundings(endpoint, region or "us-east-1", ca_bundle, credentials)

    session = _with_profile(settings, new_session)
    if region is None:
        region = session.get_config_variable("region") or "us-east-1"
    if ca_bundle is None:
        ca_bundle = session.get_config_variable("ca_bundle")
    endpoint = settings.endpoint or _configured_endpoint(session) or _aws_endpoint(session, region)
    check_endpoint("the endpoint of the AWS configuration", endpoint)
    if credentials is None:

        def find() -> BotocoreCredentials | None:
            return new_session(settings).get_credentials()

        credentials = FoundCredentials(find, missing=_missing(settings, session), clock=clock)
    return Surroundings(endpoint, region, ca_bundle, credentials)


def _has_profiles(environ: Mapping[str, str]) -> bool:
    """Whether a profile is chosen or a file may hold one, which botocore has to read."""
    # Even an empty name is one that botocore looks for.
    if "AWS_PROFILE" in environ or "AWS_DEFAULT_PROFILE" in environ:
        return True
    files = (
        environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
        environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    )
    return any(os.path.isfile(os.path.expanduser(os.path.expandvars(file))) for file in files)


def _credentials_of_environment(environ: Mapping[str, str]) -> Credentials | None:
    """Keys that nothing else can outdo and that never expire, as botocore would find them; None: ask botocore."""
    access_key, secret_key = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key or environ.get("AWS_CREDENTIAL_EXPIRATION"):
        return None
    token = environ.get("AWS_SECURITY_TOKEN") or environ.get("AWS_SESSION_TOKEN") or None
    return FixedCredentials(Identity(access_key, secret_key, token, _SOURCES["env"]))


def _endpoint_of_environment(environ: Mapping[str, str]) -> str | None:
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        return None
    return environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")


def new_session(settings: S3Settings) -> Session:
    """A botocore session that knows nothing yet."""
    from botocore.session import Session

    return Session(profile=settings.profile)


def _with_profile(settings: S3Settings, make: Callable[[S3Settings], Session]) -> Session:
    from botocore.exceptions import BotoCoreError

    try:
        session = make(settings)
        session.get_scoped_config()
    except BotoCoreError as error:
        raise AccessDenied(f"the AWS configuration cannot be used: {error}") from error
    return session


def _configured_endpoint(session: Session) -> str | None:
    """``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, and ``endpoint_url`` of the profile, in this order."""
    from botocore.configprovider import ConfiguredEndpointProvider

    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
    )
    found = provider.provide()
    return None if found is None else str(found)


def _aws_endpoint(session: Session, region: str) -> str:
    from botocore.regions import EndpointResolver

    data = EndpointResolver(session.get_data("endpoints")).construct_endpoint(
        "s3",
        region,
        use_dualstack_endpoint=bool(session.get_config_variable("use_dualstack_endpoint")),
        use_fips_endpoint=bool(session.get_config_variable("use_fips_endpoint")),
    )
    if not data or "hostname" not in data:
        near = difflib.get_close_matches(region, session.get_available_regions("s3"), n=1)
        hint = f"did you mean {near[0]}?" if near else "set region=… or endpoint=…"
        raise ValueError(f"AWS has no region {region!r}: {hint}")
    return f"https://{data['hostname']}"


def _missing(settings: S3Settings, session: Session) -> str:
    profile = settings.profile or session.get_config_variable("profile") or "default"
    return (
        "no credentials for S3 were found: not in the environment (AWS_ACCESS_KEY_ID), not in profile "
        f"{profile!r} of ~/.aws/credentials and ~/.aws/config (keys, SSO, credential_process), no web identity "
        "(AWS_WEB_IDENTITY_TOKEN_FILE), no container or instance role. Set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or run aws configure; add anonymous=true for a public bucket"
    )
