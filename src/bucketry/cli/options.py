"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from bucketry.server.config import Loaded
    from bucketry.store.open import StoreOptions

CONFIGURATION = Group("Configuration", sort_key=2)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    debug: Annotated[bool, Parameter(negative=(), help="Show the traceback of an error.")] = False


@Parameter(name="*", group=CONFIGURATION)
@dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    config: Annotated[
        Path | None,
        Parameter(metavar="FILE", help="Settings, in TOML. Default: the file `BUCKETRY_CONFIG` names, if any."),
    ] = None
    set: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="SECTION.KEY=VALUE",
            negative=(),
            help="One setting; may be given several times. `bucketry config show` lists them all.",
        ),
    ] = ()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    store: Annotated[
        str | None,
        Parameter(
            metavar="URL",
            help="Where everything is kept: `s3://BUCKET/PREFIX`, a folder, or `memory:`. Default: `./bucketry-data`",
        ),
    ] = None
    listen: Annotated[
        str | None, Parameter(metavar="HOST:PORT", help="Address and port. Default: `127.0.0.1:5000`")
    ] = None
    workers: Annotated[int | None, Parameter(metavar="N", help="Worker processes. Default: one a core, up to 4.")] = (
        None
    )

    access: Annotated[
        str | None,
        Parameter(metavar="FILE", help="Rules: who may do what. Default: none, and only this machine is listened to."),
    ] = None
    insecure_open: Annotated[
        bool, Parameter(negative=(), help="Without rules, listen on other addresses all the same.")
    ] = False

    def flags(self) -> dict[str, str | int | None]:
        return {
            "--store": self.store,
            "--listen": self.listen,
            "--workers": self.workers,
            "--access": self.access,
            "--insecure-open": "true" if self.insecure_open else None,
        }


def load_config(config: ConfigOptions, flags: Mapping[str, str | int | None]) -> Loaded:
    """Reads the configuration under these flags; raises `ConfigError`."""
    from bucketry.server.config import ConfigError, load

    texts: dict[str, str] = {}
    for item in config.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: write SECTION.KEY=VALUE, for example upload.part_size=16MiB")
        texts[key.strip()] = value.strip()
    texts.update({flag: str(value) for flag, value in flags.items() if value is not None})
    return load(config.config, os.environ, texts)


def store_options(config: ConfigOptions) -> StoreOptions:
    """How buckets are reached: the section ``store`` of the configuration. Raises `ConfigError`."""
    return load_config(config, {}).config.store.options()
