"""The configuration of a server: one frozen tree, read once from flags, environment, file and defaults.

`bucketry.server.sections` says what can be set. Precedence: flags, then the environment
(``BUCKETRY_SECTION__KEY``), then the file (TOML), then the defaults. Whatever is wrong raises `ConfigError`,
whose one line names the key, where it came from, and what is right.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bucketry.server.sections import (
    MAX_DEFAULT_WORKERS,
    AccessConfig,
    CatalogConfig,
    Config,
    DeleteConfig,
    DeliveryConfig,
    LimitsConfig,
    LogConfig,
    ManifestConfig,
    MountConfig,
    Section,
    ServerConfig,
    StoreConfig,
    TlsConfig,
    UploadConfig,
)
from bucketry.server.units import format_size
from bucketry.server.values import MASK, Setting, read_value, show_given

__all__ = [
    "FILE_VARIABLE",
    "FLAGS",
    "MASK",
    "SECTIONS",
    "SETTINGS",
    "AccessConfig",
    "CatalogConfig",
    "Config",
    "ConfigError",
    "DeleteConfig",
    "DeliveryConfig",
    "LimitsConfig",
    "Loaded",
    "LogConfig",
    "ManifestConfig",
    "MountConfig",
    "ServerConfig",
    "Setting",
    "StoreConfig",
    "TlsConfig",
    "UploadConfig",
    "load",
]


class ConfigError(Exception):
    """The configuration cannot be used. The message is one line for the person who wrote it; no secrets."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each value came from.

    ``origins``: dotted key to ``default``, ``file PATH``, ``environment VARIABLE``, ``--store`` or ``--set``.
    """

    config: Config
    origins: Mapping[str, str]


def _settings() -> Iterator[Setting]:
    for section, cls in SECTIONS.items():
        defaults = cls()
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            inner, meta = typing.get_args(hint)
            # Optional is the last member of a union: "str | None", "Literal[...] | None".
            *others, last = typing.get_args(inner) or (inner,)
            optional = last is type(None)
            inner = others[0] if optional else inner
            choices = typing.get_args(inner) if typing.get_origin(inner) is typing.Literal else ()
            yield Setting(
                section=section,
                name=name,
                form="flag" if inner is bool else "choice" if choices else meta.extra["form"],
                description=meta.description,
                default=getattr(defaults, name),
                choices=choices,
                optional=optional,
                secret=meta.extra.get("secret", False),
                least=meta.ge,
                most=meta.le,
            )


SECTIONS: Mapping[str, type[Section]] = typing.get_type_hints(Config)
"""Section name to its class, in the order of the reference page."""

SETTINGS: Mapping[str, Setting] = {setting.key: setting for setting in _settings()}
"""Dotted key to setting, in the order of the reference page."""

FLAGS: Mapping[str, str] = {
    "--store": "store.url",
    "--listen": "server.listen",
    "--workers": "server.workers",
    "--access": "access.file",
    "--insecure-open": "access.insecure_open",
}
"""Flags of their own, and the key each sets; every other key has ``--set KEY=VALUE``."""

FILE_VARIABLE = "BUCKETRY_CONFIG"
"""The environment variable that names the file where no flag does."""


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Loaded:
    """Reads the configuration. Raises `ConfigError`.

    ``file``: TOML; where None, the one ``BUCKETRY_CONFIG`` names, if any. ``flags``: dotted key (from
    ``--set``) or one of `FLAGS`, to its text; a flag of its own wins over ``--set``.
    """
    if file is None and environ.get(FILE_VARIABLE):
        file = Path(environ[FILE_VARIABLE])
    given: dict[str, tuple[object, str]] = {}
    if file is not None:
        given.update(_from_file(file))
    given.update(_from_environment(environ))
    given.update(_from_flags(flags))

    values: dict[str, dict[str, typing.Any]] = {section: {} for section in SECTIONS}
    origins = dict.fromkeys(SETTINGS, "default")
    for key, (raw, origin) in given.items():
        setting = SETTINGS[key]
        try:
            values[setting.section][setting.name] = read_value(setting, raw)
        except ValueError as error:
            raise ConfigError(f"{key} ({origin}): {show_given(setting, raw)} {error}") from None
        origins[key] = origin
    sections: dict[str, typing.Any] = {section: cls(**values[section]) for section, cls in SECTIONS.items()}
    server, store = sections["server"], sections["store"]
    if store.url.lower() == "memory:" and server.workers == 0:
        sections["server"] = msgspec.structs.replace(server, workers=1)
    config = Config(**sections)
    _check_together(config, origins)
    return Loaded(config, origins)


def _from_file(file: Path) -> Iterator[tuple[str, tuple[object, str]]]:
    try:
        tables = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration file {file} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration file {file} is not TOML: {error}") from error
    for section, table in tables.items():
        if section not in SECTIONS:
            # A key without its section is the likeliest slip: "listen = …" at the top of the file.
            hint = _nearest(section, SECTIONS if isinstance(table, dict) else [*SECTIONS, *SETTINGS])
            raise ConfigError(f"{file}: there is no section {section}{_did_you_mean(hint)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{file}: {section} is a section; write [{section}] and its keys below it")
        for name, raw in table.items():
            key = f"{section}.{name}"
            if key not in SETTINGS:
                raise ConfigError(f"{file}: there is no setting {key}{_did_you_mean(_nearest(key, SETTINGS))}")
            yield key, (raw, f"file {file}")


# Kubernetes puts these into every pod near a Service named bucketry or bucketry-<anything>: no typos of ours.
_SERVICE_LINK = re.compile(
    r"(_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$"
)
_SERVICE_LINK_URL = re.compile(r"(tcp|udp|sctp)://")


def _is_service_link(variable: str, value: str) -> bool:
    if variable.endswith("_PORT") and _SERVICE_LINK_URL.match(value):
        return True
    return _SERVICE_LINK.search(variable) is not None


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, tuple[object, str]]]:
    keys = {setting.variable: key for key, setting in SETTINGS.items()}
    for variable, raw in environ.items():
        if variable in keys:
            yield keys[variable], (raw, f"environment {variable}")
        elif variable.startswith("BUCKETRY_") and variable != FILE_VARIABLE and not _is_service_link(variable, raw):
            known = {_as_key(name): name for name in (*keys, FILE_VARIABLE)}
            near = _nearest(_as_key(variable), known)
            hint = known[near] if near else None
            raise ConfigError(f"the environment variable {variable} sets nothing{_did_you_mean(hint)}")


def _as_key(variable: str) -> str:
    return variable.removeprefix("BUCKETRY_").lower().replace("__", ".")


def _from_flags(flags: Mapping[str, str]) -> Iterator[tuple[str, tuple[object, str]]]:
    for key, raw in flags.items():
        if key in SETTINGS:
            yield key, (raw, "--set")
        elif key not in FLAGS:
            raise ConfigError(f"--set: there is no setting {key}{_did_you_mean(_nearest(key, SETTINGS))}")
    for flag, key in FLAGS.items():
        if flag in flags:
            yield key, (flags[flag], flag)


def _nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name most like the given one: the same in another section, alike, or alike after its section."""
    names = list(known)
    same = [name for name in names if _tail(name) == _tail(given)]
    if len(same) == 1:
        return same[0]
    near = difflib.get_close_matches(given, names, n=1)
    if near:
        return near[0]
    tails = {_tail(name): name for name in reversed(names)}
    near = difflib.get_close_matches(_tail(given), tails, n=1, cutoff=0.75)
    return tails[near[0]] if near else None


def _tail(name: str) -> str:
    return name.rpartition(".")[2]


def _did_you_mean(name: str | None) -> str:
    return f"; did you mean {name}?" if name else "; `bucketry config show` lists them all"


def _check_together(config: Config, origins: Mapping[str, str]) -> None:
    """Values that are right alone and must also fit each other."""
    store, upload = config.store, config.upload
    if (store.access_key_id is None) != (store.secret_access_key is None):
        present, missing = "access_key_id", "secret_access_key"
        if store.access_key_id is None:
            present, missing = missing, present
        raise ConfigError(f"store.{present} ({origins[f'store.{present}']}) needs store.{missing} beside it")
    if store.session_token is not None and store.access_key_id is None:
        raise ConfigError("store.session_token needs store.access_key_id and store.secret_access_key beside it")
    who = {"profile": store.profile, "access_key_id": store.access_key_id, "anonymous": store.anonymous or None}
    several = [f"store.{name}" for name, value in who.items() if value is not None]
    if len(several) > 1:
        raise ConfigError(f"{' and '.join(several)} answer the same question; set one of them")
    if store.sse_kms_key_id is not None and store.sse != "aws:kms":
        raise ConfigError('store.sse_kms_key_id needs store.sse = "aws:kms"')
    if store.url.lower() == "memory:" and config.server.workers > 1:
        raise ConfigError(
            f"server.workers ({origins['server.workers']}): a store in memory (store.url) has one worker: "
            "others would not see it"
        )
    _check_tls(config, origins)
    # By the most workers the setting may mean: a file that is right here is then right on any machine.
    workers = config.server.worker_count(MAX_DEFAULT_WORKERS)
    if upload.memory < upload.part_size * workers:
        raise ConfigError(
            f"upload.memory ({origins['upload.memory']}): {format_size(upload.memory)} is less than one part "
            f"of {format_size(upload.part_size)} (upload.part_size) for each of {workers} workers; set it to "
            f"{format_size(upload.part_size * workers)} or more, or lower server.workers"
        )


def _check_tls(config: Config, origins: Mapping[str, str]) -> None:
    tls = config.tls
    for present, missing in (("cert", "key"), ("key", "cert")):
        if getattr(tls, present) is not None and getattr(tls, missing) is None:
            raise ConfigError(f"tls.{present} ({origins[f'tls.{present}']}) needs tls.{missing} beside it")
    for name in ("key_password", "client_ca", "hsts"):
        if getattr(tls, name) and tls.cert is None:
            raise ConfigError(f"tls.{name} ({origins[f'tls.{name}']}) needs tls.cert and tls.key beside it")
    if (tls.client_certificates != "none") != (tls.client_ca is not None):
        raise ConfigError(
            'tls.client_certificates = "optional" or "required", and tls.client_ca belong together: set both, or none'
        )
    if tls.client_crl is not None and tls.client_ca is None:
        raise ConfigError(f"tls.client_crl ({origins['tls.client_crl']}) needs tls.client_ca beside it")
    if config.access.certificate_header is not None:
        if not config.server.trusted_proxies:
            raise ConfigError("access.certificate_header is heeded from server.trusted_proxies only: say who they are")
        if config.access.file is None:
            raise ConfigError("access.certificate_header is of use to rules only, and there are none: set access.file")
    if config.access.metrics == "rules" and config.access.file is None:
        raise ConfigError(
            'access.metrics = "rules" needs rules that say who reads them, and there are none: set access.file'
        )
