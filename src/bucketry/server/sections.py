"""The sections of the configuration: what can be set, with its unit, its meaning, its default and its bounds.

The descriptions are the reference page: ``docs/reference/configuration.md`` is made from them. Sizes are
bytes, durations are seconds. `bucketry.server.config` reads these from files, variables and flags.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bucketry.server.units import split_listen
from bucketry.server.values import MASK
from bucketry.store.open import StoreOptions

KIB, MIB, GIB = 1024, 1024**2, 1024**3
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

MAX_DEFAULT_WORKERS = 4
"""``server.workers = 0`` starts one worker a core, and never more than this."""


def _text(description: str, *, form: str = "text", secret: bool = False) -> Meta:
    return Meta(description=description, extra={"form": form, "secret": secret})


def _count(description: str, least: int, most: int) -> Meta:
    return Meta(description=description, ge=least, le=most, extra={"form": "count"})


def _size(description: str, least: int, most: int) -> Meta:
    return Meta(description=description, ge=least, le=most, extra={"form": "size"})


def _duration(description: str, least: float, most: float) -> Meta:
    return Meta(description=description, ge=least, le=most, extra={"form": "duration"})


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file. Its representation never shows a secret."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        secrets = _secrets(type(self))
        values = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [(name, MASK if name in secrets and value is not None else value) for name, value in values]


def _secrets(section: type[Section]) -> frozenset[str]:
    hints = typing.get_type_hints(section, include_extras=True)
    metas = {name: typing.get_args(hint)[-1] for name, hint in hints.items() if typing.get_args(hint)}
    return frozenset(name for name, meta in metas.items() if meta.extra.get("secret"))


class ServerConfig(Section, frozen=True, kw_only=True):
    """How the server is reached."""

    listen: Annotated[
        str,
        _text(
            "Address and port to listen on: `HOST:PORT`, `[IPV6]:PORT`. Port 0 takes a free one.",
            form="listen",
        ),
    ] = "127.0.0.1:5000"
    workers: Annotated[int, _count("Worker processes. 0 starts one a core, up to 4.", 0, 256)] = 0
    public_url: Annotated[
        str | None,
        _text(
            "Scheme and host by which clients reach the server (`https://registry.example`), for absolute "
            "`Location` headers. Not set: they are relative, which is right behind most proxies.",
            form="origin",
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        _text("Networks of proxies whose `X-Forwarded-For` says who the client is.", form="networks"),
    ] = ()

    @property
    def host(self) -> str:
        """The host of `listen`, without the brackets of an IPv6 address."""
        return split_listen(self.listen)[0]

    @property
    def port(self) -> int:
        return split_listen(self.listen)[1]

    def worker_count(self, cores: int) -> int:
        """How many worker processes to start on a machine with this many cores."""
        return self.workers or max(1, min(cores, MAX_DEFAULT_WORKERS))


class StoreConfig(Section, frozen=True, kw_only=True):
    """Where everything is kept. All but `url` and `fsync` are about S3."""

    url: Annotated[
        str,
        _text(
            "`s3://BUCKET/PREFIX`, a folder (`file:/srv/registry` or a plain path, relative to the current "
            "directory), or `memory:` (one worker, and gone when the server stops)."
        ),
    ] = "./bucketry-data"
    endpoint: Annotated[
        str | None, _text("URL of an S3 service other than AWS: `https://minio.example:9000`.", form="url")
    ] = None
    region: Annotated[
        str | None, _text("Region that signs requests. Not set: the AWS environment's, or `us-east-1`.")
    ] = None
    addressing: Annotated[
        Literal["auto", "path", "virtual"],
        _text(
            "Where the bucket's name goes: `virtual` into the host, `path` into the path, `auto` by what the "
            "endpoint and the name allow."
        ),
    ] = "auto"
    checksum: Annotated[
        Literal["auto", "none", "md5", "crc32", "sha256"],
        _text(
            "Checksum by which the service verifies what it takes. `auto` sends MD5, which every service knows, "
            "with all but blob bytes, whose digest is verified anyway; the others go with every body."
        ),
    ] = "auto"
    sign_payload: Annotated[
        bool,
        _text(
            "Sign blob bytes too. It halves the throughput, and is of use over plain `http` to a service that "
            "is not on the same machine."
        ),
    ] = False
    sse: Annotated[
        Literal["AES256", "aws:kms"] | None,
        _text("Server-side encryption to ask for. Not set: the bucket's default."),
    ] = None
    sse_kms_key_id: Annotated[str | None, _text('KMS key of `sse = "aws:kms"`. Not set: the account\'s.')] = None
    storage_class: Annotated[
        str | None,
        _text("Storage class of blob bytes, `INTELLIGENT_TIERING` for example. Not set: the bucket's default."),
    ] = None
    public_endpoint: Annotated[
        str | None,
        _text(
            "URL of the S3 service as clients reach it, for presigned URLs, where it differs from `endpoint`.",
            form="url",
        ),
    ] = None
    ca_bundle: Annotated[
        str | None,
        _text("File of certificates (PEM) to trust instead of the system's. Not set: `AWS_CA_BUNDLE`."),
    ] = None
    profile: Annotated[str | None, _text("Profile of the AWS configuration files to take credentials from.")] = None
    anonymous: Annotated[bool, _text("Sign nothing: for a bucket that is open to anyone.")] = False
    access_key_id: Annotated[
        str | None,
        _text("Access key. Not set: the AWS environment (variables, profile, SSO, web identity, instance role)."),
    ] = None
    secret_access_key: Annotated[str | None, _text("Secret of `access_key_id`.", secret=True)] = None
    session_token: Annotated[str | None, _text("Token of temporary credentials.", secret=True)] = None
    max_connections: Annotated[int, _count("Connections to the store, for each worker.", 1, 4096)] = 64
    connect_timeout: Annotated[float, _duration("How long a connection to the store may take.", 0.1, HOUR)] = 5.0
    read_timeout: Annotated[
        float, _duration("How long the store may be silent before a request is given up.", 0.1, HOUR)
    ] = 60.0
    retries: Annotated[
        int, _count("How often a request is tried again, at most, after a failure of the store that may pass.", 0, 100)
    ] = 6
    deadline: Annotated[
        float, _duration("How long a small request to the store may take, its retries included.", 0.1, HOUR)
    ] = 30.0
    checked_put: Annotated[
        bool | None,
        _text(
            "Whether clients send small blobs straight to the bucket: by a presigned PUT which the store must take for "
            "the bytes of the signed SHA-256 only, and only once. Not set: where the look at the store, when the "
            "server starts, found that it does. `true` trusts a store blindly, as such blobs are not read back: on one "
            "that does not check, a client can put any bytes under any digest."
        ),
    ] = None
    fsync: Annotated[
        bool,
        _text(
            "Folders only: wait until the disk has it before a write is acknowledged. `false` is faster, and "
            "loses acknowledged pushes when the machine loses power."
        ),
    ] = True

    def options(self) -> StoreOptions:
        """For `bucketry.store.open.open_store`, beside `url`."""
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in dataclasses.fields(StoreOptions)}
        return StoreOptions(**values)


class UploadConfig(Section, frozen=True, kw_only=True):
    """How blobs come in."""

    part_size: Annotated[
        int,
        _size(
            "Bytes of a part of a multipart upload. A blob has at most 10,000 parts, so `5MiB` allows 48 GiB; a "
            "smaller blob than this is one request to the store.",
            5 * MIB,
            5 * GIB,
        ),
    ] = 5 * MIB
    memory: Annotated[
        int,
        _size(
            "Bytes of all part buffers of the server, shared by its workers. Uploads wait when it is used up.",
            5 * MIB,
            1024 * GIB,
        ),
    ] = 96 * MIB
    parallel_parts: Annotated[int, _count("Parts of one upload that travel to the store at once.", 1, 256)] = 8
    expire: Annotated[
        float,
        _duration("Life of an upload session, from its beginning; what it holds is removed later.", MINUTE, 365 * DAY),
    ] = 24 * HOUR
    sweep_interval: Annotated[float, _duration("How often abandoned uploads are looked for.", 1.0, 7 * DAY)] = (
        10 * MINUTE
    )


class ManifestConfig(Section, frozen=True, kw_only=True):
    """What is accepted as a manifest."""

    max_size: Annotated[
        int,
        _size("Largest manifest taken; larger ones get 413. The specification asks for 4 MiB.", KIB, 16 * MIB),
    ] = 4 * MIB
    sparse: Annotated[
        bool, _text("Accept manifests and indexes though the repository lacks some of the content they name.")
    ] = False


class DeliveryConfig(Section, frozen=True, kw_only=True):
    """How blobs go out."""

    mode: Annotated[
        Literal["redirect", "proxy"],
        _text(
            "`redirect` sends clients to a presigned URL of the bucket, `proxy` sends the bytes through the "
            "server. A store that cannot presign is always proxied."
        ),
    ] = "redirect"
    redirect_from: Annotated[
        int,
        _size(
            "Blobs smaller than this are sent by the server: a redirect would take longer than they do.",
            0,
            GIB,
        ),
    ] = 256 * KIB
    redirect_networks: Annotated[
        tuple[str, ...], _text("Client networks that are redirected, whatever `mode` says.", form="networks")
    ] = ()
    proxy_networks: Annotated[
        tuple[str, ...],
        _text("Client networks that are proxied, whatever `mode` and `redirect_networks` say.", form="networks"),
    ] = ()
    presign_expires: Annotated[
        float,
        _duration("Life of a presigned URL: a client must have begun its download by then.", MINUTE, 7 * DAY),
    ] = 20 * MINUTE
    file_sendfile: Annotated[
        bool, _text("Folders only: hand files to the kernel instead of reading them, where the server can.")
    ] = True


class DeleteConfig(Section, frozen=True, kw_only=True):
    """Deletes by clients."""

    enabled: Annotated[bool, _text("Allow DELETE of manifests, tags and blobs; otherwise 405.")] = True


class CatalogConfig(Section, frozen=True, kw_only=True):
    """The list of repositories."""

    enabled: Annotated[bool, _text("Answer `/v2/_catalog`; otherwise 404.")] = True


class MountConfig(Section, frozen=True, kw_only=True):
    """Blobs taken over from another repository."""

    without_source: Annotated[
        bool, _text("Mount a blob though the client did not say from where, when any repository has it.")
    ] = True


class LimitsConfig(Section, frozen=True, kw_only=True):
    """What a client may ask of the server."""

    page_size: Annotated[int, _count("Entries on a page of a list: the largest `n`, and the default.", 1, 1000)] = 1000
    header_timeout: Annotated[
        float,
        _duration(
            "How long a client may take to send the head of a request; an idle connection is kept open as long.",
            0.1,
            HOUR,
        ),
    ] = 30.0
    body_idle_timeout: Annotated[
        float,
        _duration(
            "How long a client may send nothing of a request's body, or take nothing of an answer; then it is cut off.",
            0.1,
            DAY,
        ),
    ] = 60.0
    request_head: Annotated[int, _size("Largest request line with headers; 431 above.", 4 * KIB, 128 * KIB)] = 32 * KIB
    shutdown_grace: Annotated[
        float, _duration("How long running requests may take to end when the server is told to stop.", 0.0, DAY)
    ] = 20.0
    max_connections: Annotated[
        int, _count("Client connections, for each worker, or process that speaks TLS.", 1, 1_000_000)
    ] = 1024
    backlog: Annotated[int, _count("Connections that wait to be accepted, for each worker.", 128, 65_535)] = 1024
    requests_per_address: Annotated[
        int,
        _count(
            "Requests a second of one address (of IPv6, a /64), on average; 429 with `Retry-After` above. Each worker "
            "counts by itself. 0: no limit.",
            0,
            1_000_000,
        ),
    ] = 0
    requests_per_principal: Annotated[
        int,
        _count(
            "The same of one user, robot, subject of ID tokens or client certificate, from all addresses together.",
            0,
            1_000_000,
        ),
    ] = 0
    request_burst: Annotated[
        float, _duration("So many seconds' worth of requests may come at once, after a time without any.", 1.0, HOUR)
    ] = 10.0


class TlsConfig(Section, frozen=True, kw_only=True):
    """HTTPS, by the server itself. Without a certificate it speaks HTTP."""

    cert: Annotated[
        str | None,
        _text("File (PEM) of the server's certificate, with those of its issuers, but for the root, behind it."),
    ] = None
    key: Annotated[
        str | None,
        _text("File (PEM) of its private key: RSA of 2048 to 8192 bits, ECDSA of P-256 or P-384, or Ed25519."),
    ] = None
    key_password: Annotated[str | None, _text("Password of the key, where it is encrypted.", secret=True)] = None
    min_version: Annotated[Literal["1.2", "1.3"], _text("The oldest version of TLS that clients may speak.")] = "1.2"
    client_certificates: Annotated[
        Literal["none", "optional", "required"],
        _text(
            "Whether clients may, or must, show a certificate of `client_ca`. Rules are for the names in it "
            "(`cert:CN=builder`)."
        ),
    ] = "none"
    client_ca: Annotated[str | None, _text("File (PEM) of the authorities whose certificates clients may show.")] = None
    client_crl: Annotated[
        str | None,
        _text(
            "File (PEM) of lists of revoked certificates, of each of these authorities: who is on one is not let in, "
            "nor is anybody of an authority whose list is out of date."
        ),
    ] = None
    http2: Annotated[
        bool,
        _text(
            "Speak HTTP/2 with clients that offer it. They then send and get all over one connection, which makes "
            "pushes of several layers slower where a connection is slow."
        ),
    ] = False
    reload: Annotated[
        float,
        _duration(
            "How often these files are looked at. Where they changed, and can be used, new connections have them.",
            1.0,
            DAY,
        ),
    ] = 60.0
    hsts: Annotated[
        float,
        _duration(
            "How long browsers are to come by HTTPS only (`Strict-Transport-Security`): `365d`, for example. 0 says "
            "nothing of it.",
            0.0,
            3650 * DAY,
        ),
    ] = 0.0


class AccessConfig(Section, frozen=True, kw_only=True):
    """Who may do what. Without a file of rules everybody may do everything, and only this machine is listened to."""

    file: Annotated[
        str | None, _text("The file of rules (`bucketry access check FILE` tells whether it is right).")
    ] = None
    insecure_open: Annotated[
        bool, _text("Listen on other addresses than this machine's own, though there are no rules.")
    ] = False
    reload: Annotated[
        float,
        _duration(
            "How often the files of rules and users are looked at; so long, too, a removed user, a changed password "
            "or a revoked robot goes on being taken for.",
            0.1,
            HOUR,
        ),
    ] = 10.0
    service: Annotated[
        str,
        _text("What tokens are for. All servers of a registry have the same; two registries have different ones."),
    ] = "bucketry"
    certificate_header: Annotated[
        str | None,
        _text(
            "Header in which the proxies of `server.trusted_proxies` pass on the certificate of a client that they "
            "verified: in the form of RFC 9440 (`Client-Cert`), as base64 of DER, or as percent-encoded PEM. From "
            "anyone else it is not looked at. The proxy must take it away from what clients send.",
            form="header",
        ),
    ] = None
    token_life: Annotated[
        float, _duration("How long a token may be used that the registry's token service gives out.", 60.0, HOUR)
    ] = 300.0
    metrics: Annotated[
        Literal["everybody", "rules"] | None,
        _text(
            "Who may read `/metrics`, which name no repository and no person. `rules`: whom a rule, or a robot's own "
            "list, gives `metrics`, by a password or a token. Not set: `everybody`, and a server with rules that "
            "others can reach warns of it when it starts."
        ),
    ] = None
    audit: Annotated[
        str | None,
        _text(
            "The audit log: a file, or `-` for standard error. It gets a line of JSON for each request that changes "
            "something, is denied or comes with wrong credentials, and for each token that is given out. Not set: none."
        ),
    ] = None
    audit_reads: Annotated[bool, _text("Write a line of the audit log for each request that only reads, too.")] = False


class LogConfig(Section, frozen=True, kw_only=True):
    """What is written to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _text("Least severity that is written.")] = "info"
    format: Annotated[
        Literal["auto", "json", "text"],
        _text("`json`: one object a line. `text`: for people. `auto`: `text` on a terminal, else `json`."),
    ] = "auto"
    access: Annotated[bool, _text("Write one line for each request.")] = True


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration; without arguments, the defaults."""

    server: ServerConfig = ServerConfig()
    store: StoreConfig = StoreConfig()
    upload: UploadConfig = UploadConfig()
    manifest: ManifestConfig = ManifestConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    delete: DeleteConfig = DeleteConfig()
    catalog: CatalogConfig = CatalogConfig()
    mount: MountConfig = MountConfig()
    limits: LimitsConfig = LimitsConfig()
    tls: TlsConfig = TlsConfig()
    access: AccessConfig = AccessConfig()
    log: LogConfig = LogConfig()

    def to_json(self) -> bytes:
        """For a worker process. It holds the secrets: never log it, never put it on a command line."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Config:
        """What `to_json` gave. Raises `ValueError`, without a word of the data: it holds secrets."""
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError:
            raise ValueError("the configuration handed to this process is not one this version wrote") from None
