"""The configuration: where values come from, what is refused and with which words, what stays secret."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from bucketry.server.config import SETTINGS, Config, ConfigError, ServerConfig, StoreConfig, load
from bucketry.store.open import StoreOptions

SECRET = "hush-hush"
KEYS = {"store.access_key_id": "AKIA", "store.secret_access_key": SECRET, "store.session_token": SECRET}


def read(text: str, tmp_path: Path) -> Config:
    file = tmp_path / "bucketry.toml"
    file.write_text(text)
    return load(file, {}, {}).config


def refused(
    flags: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, environ or {}, flags or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    loaded = load(None, {"PATH": "/bin"}, {})
    assert loaded.config == Config()
    assert set(loaded.origins) == set(SETTINGS)
    assert set(loaded.origins.values()) == {"default"}


def test_the_defaults_are_those_the_documents_promise() -> None:
    config = Config()
    assert (config.server.host, config.server.port) == ("127.0.0.1", 5000)
    assert config.store.url == "./bucketry-data"
    assert config.store.fsync is True
    assert config.upload.part_size == 5 * 1024**2
    assert config.upload.memory == 96 * 1024**2
    assert config.upload.expire == 86400.0
    assert config.manifest.max_size == 4 * 1024**2
    assert config.delivery.mode == "redirect"
    assert config.limits.page_size == 1000


def test_every_default_is_a_value_its_setting_takes() -> None:
    """So that what ``config show`` prints can be written into a file."""
    flags = {key: setting.show(setting.default) for key, setting in SETTINGS.items() if setting.default is not None}
    assert load(None, {}, flags).config == Config()


def test_flags_win_over_the_environment_that_over_the_file_and_that_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "bucketry.toml"
    file.write_text('[store]\nurl = "file"\nregion = "file"\nprofile = "file"\n[log]\naccess = false\n')
    environ = {"BUCKETRY_STORE__URL": "environment", "BUCKETRY_STORE__REGION": "environment"}
    loaded = load(file, environ, {"store.url": "set"})
    assert (loaded.config.store.url, loaded.config.store.region) == ("set", "environment")
    assert loaded.config.store.profile == "file"
    assert loaded.config.log.access is False
    assert loaded.origins["store.url"] == "--set"
    assert loaded.origins["store.region"] == "environment BUCKETRY_STORE__REGION"
    assert loaded.origins["store.profile"] == f"file {file}"
    assert loaded.origins["log.level"] == "default"


def test_a_flag_of_its_own_wins_over_set() -> None:
    loaded = load(None, {}, {"--store": "own", "store.url": "set", "--workers": "3", "--listen": "[::]:1"})
    assert loaded.config.store.url == "own"
    assert loaded.origins["store.url"] == "--store"
    assert loaded.config.server == ServerConfig(listen="[::]:1", workers=3)
    assert loaded.config.server.host == "::"


def test_a_variable_names_the_file_where_no_flag_does(tmp_path: Path) -> None:
    here, there = tmp_path / "here.toml", tmp_path / "there.toml"
    here.write_text("[server]\nworkers = 1\n")
    there.write_text("[server]\nworkers = 2\n")
    environ = {"BUCKETRY_CONFIG": str(there)}
    assert load(None, environ, {}).config.server.workers == 2
    assert load(here, environ, {}).config.server.workers == 1


def test_a_file_is_read_with_its_types(tmp_path: Path) -> None:
    config = read(
        """
        [server]
        workers = 2
        trusted_proxies = ["10.0.0.0/8", "::1"]
        public_url = "https://registry.example"
        [upload]
        part_size = 6000000
        expire = 3600
        sweep_interval = 0.5e1
        memory = "64MB"
        """,
        tmp_path,
    )
    assert config.server.trusted_proxies == ("10.0.0.0/8", "::1")
    assert config.server.public_url == "https://registry.example"
    assert (config.upload.part_size, config.upload.memory) == (6_000_000, 64_000_000)
    assert (config.upload.expire, config.upload.sweep_interval) == (3600.0, 5.0)


def test_text_is_read_as_each_type() -> None:
    config = load(
        None,
        {
            "BUCKETRY_DELETE__ENABLED": "no",
            "BUCKETRY_DELIVERY__PROXY_NETWORKS": "10.0.0.0/8, fd00::/8",
            "BUCKETRY_LIMITS__PAGE_SIZE": "50",
            "BUCKETRY_STORE__ENDPOINT": "http://127.0.0.1:8333/",
            "BUCKETRY_STORE__SSE": "AES256",
            "BUCKETRY_STORE__REGION": "",
        },
        {},
    ).config
    assert config.delete.enabled is False
    assert config.delivery.proxy_networks == ("10.0.0.0/8", "fd00::/8")
    assert config.limits.page_size == 50
    assert config.store.endpoint == "http://127.0.0.1:8333"
    assert config.store.sse == "AES256"
    assert config.store.region is None


@pytest.mark.parametrize(
    ("key", "given", "right"),
    [
        ("upload.part_size", "8 parsecs", "8MiB"),
        ("upload.part_size", "1MiB", "between 5MiB and 5GiB"),
        ("upload.expire", "soon", "24h"),
        ("upload.expire", "1s", "between 1m and 365d"),
        ("server.workers", "many", "whole number"),
        ("server.workers", "-1", "whole number"),
        ("server.workers", "1000", "between 0 and 256"),
        ("server.listen", "5000", "127.0.0.1:5000"),
        ("server.public_url", "registry.example", "https://host"),
        ("server.public_url", "https://registry.example/v2", "/v2/"),
        ("store.endpoint", "ftp://s3.example", "https://host"),
        ("store.endpoint", "https://[::1", "https://host"),
        ("store.endpoint", "https://s3.example:port", "https://host"),
        ("store.addressing", "paths", "auto, path, virtual"),
        ("store.region", " eu", "spaces"),
        ("store.url", "", "empty"),
        ("delivery.redirect_networks", "10.0.0.1/8", "host bits"),
        ("delivery.mode", "Redirect", "redirect, proxy"),
        ("delete.enabled", "maybe", "true nor false"),
    ],
)
def test_a_wrong_value_is_refused_with_key_origin_value_and_what_is_right(key: str, given: str, right: str) -> None:
    message = refused({key: given})
    assert message.startswith(f'{key} (--set): "{given}" ')
    assert right in message
    variable = SETTINGS[key].variable
    assert f"{key} (environment {variable})" in refused(environ={variable: given})


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("server.workers = true", "true is not a whole number"),
        ('server.workers = "true"', '"true" is not a whole number'),
        ("server.workers = 1.5", "1.5 is not a whole number"),
        ("server.listen = 5000", "5000 is not text; put it in quotes"),
        ("server.trusted_proxies = [1]", "is not a list of networks"),
        ("upload.expire = inf", "inf is not a duration"),
        ("upload.expire = nan", "nan is not a duration"),
        ("upload.expire = 2026-01-01", "is not a duration"),
        ("upload.part_size = 8.5e6", "8500000.0 is not a size"),
        ("upload.part_size = true", "true is not a size"),
        ("delete.enabled = 1", "1 is neither true nor false"),
        ("store.sse = 1", "is not one of AES256, aws:kms"),
    ],
)
def test_a_wrong_type_in_a_file_is_refused(line: str, right: str, tmp_path: Path) -> None:
    file = tmp_path / "bucketry.toml"
    file.write_text(line)
    message = refused(file=file)
    assert f"(file {file}): " in message
    assert right in message


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("upload.partsize", "upload.part_size"),
        ("uplod.part_size", "upload.part_size"),
        ("part_size", "upload.part_size"),
        ("server.part_size", "upload.part_size"),
        ("listen", "server.listen"),
        ("store.access_key", "store.access_key_id"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(given: str, near: str, tmp_path: Path) -> None:
    assert refused({given: "1"}).endswith(f"{given}; did you mean {near}?")
    variable = "BUCKETRY_" + given.upper().replace(".", "__")
    assert f"did you mean {SETTINGS[near].variable}?" in refused(environ={variable: "1"})
    file = tmp_path / "bucketry.toml"
    file.write_text(f"{given} = 1\n")
    message = refused(file=file)
    assert str(file) in message
    assert f"did you mean {near.split('.')[0]}" in message


def test_a_key_like_no_other_points_to_the_list() -> None:
    assert "config show" in refused({"qqq.zzz": "1"})
    assert "config show" in refused(environ={"BUCKETRY_QQQ": "1"})


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("[stor]\nurl = 'x'", "did you mean store?"),
        ("store = 'x'", "write [store]"),
        ("[store", "is not TOML"),
        ("[store]\nurl = 'a'\nurl = 'b'", "is not TOML"),
    ],
)
def test_a_file_of_the_wrong_form_is_refused(text: str, right: str, tmp_path: Path) -> None:
    file = tmp_path / "bucketry.toml"
    file.write_text(text)
    message = refused(file=file)
    assert str(file) in message
    assert right in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(file=tmp_path / "missing.toml")
    assert "directory" in refused(file=tmp_path).lower()
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# \xe9\n")
    assert "UTF-8" in refused(file=latin)


def test_the_variables_kubernetes_sets_for_a_service_are_not_ours() -> None:
    environ = {
        "BUCKETRY_SERVICE_HOST": "10.0.0.1",
        "BUCKETRY_SERVICE_PORT": "5000",
        "BUCKETRY_SERVICE_PORT_HTTP": "5000",
        "BUCKETRY_PORT": "tcp://10.0.0.1:5000",
        "BUCKETRY_PORT_5000_TCP": "tcp://10.0.0.1:5000",
        "BUCKETRY_PORT_5000_TCP_ADDR": "10.0.0.1",
        "BUCKETRY_EU_WEST_SERVICE_HOST": "10.0.0.1",
        "BUCKETRY_EU_WEST_PORT": "tcp://10.0.0.1:5000",
    }
    assert load(None, environ, {}).config == Config()
    assert "BUCKETRY_PORT sets nothing" in refused(environ={"BUCKETRY_PORT": "5000"})


@pytest.mark.parametrize(
    ("flags", "right"),
    [
        ({"store.access_key_id": "a"}, "store.secret_access_key"),
        ({"store.secret_access_key": SECRET}, "store.access_key_id"),
        ({"store.session_token": SECRET}, "store.access_key_id"),
        ({"store.profile": "p", **KEYS}, "store.profile and store.access_key_id"),
        ({"store.anonymous": "true", **KEYS}, "store.access_key_id and store.anonymous"),
        ({"store.sse_kms_key_id": "k"}, 'store.sse = "aws:kms"'),
        ({"store.sse_kms_key_id": "k", "store.sse": "AES256"}, 'store.sse = "aws:kms"'),
        ({"upload.part_size": "64MiB"}, "256MiB or more"),
        ({"upload.part_size": "64MiB", "--workers": "2"}, "128MiB or more"),
        ({"--store": "memory:", "--workers": "2"}, "one worker"),
        ({"access.metrics": "rules"}, "set access.file"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(flags: Mapping[str, str], right: str) -> None:
    message = refused(flags)
    assert right in message
    assert SECRET not in message


def test_a_part_fits_into_the_memory_of_the_only_worker() -> None:
    assert load(None, {}, {"upload.part_size": "64MiB", "--workers": "1"}).config.upload.part_size == 64 * 1024**2


def test_a_store_in_memory_has_one_worker() -> None:
    """Each worker would have a store of its own."""
    assert load(None, {}, {"--store": "memory:"}).config.server.worker_count(8) == 1


@pytest.mark.parametrize(("workers", "cores", "count"), [(0, 1, 1), (0, 2, 2), (0, 64, 4), (7, 1, 7)])
def test_workers_follow_the_cores_up_to_four(workers: int, cores: int, count: int) -> None:
    assert ServerConfig(workers=workers).worker_count(cores) == count


def test_no_representation_shows_a_secret() -> None:
    loaded = load(None, {}, KEYS)
    assert loaded.config.store.secret_access_key == SECRET
    out = io.StringIO()
    console = Console(file=out, width=500)
    console.print(loaded.config, loaded)
    options = loaded.config.store.options()
    assert options.secret_access_key == SECRET
    for text in (repr(loaded), str(loaded.config), f"{loaded.config.store}", out.getvalue(), repr(options)):
        assert SECRET not in text
    assert "AKIA" in repr(loaded)


@pytest.mark.parametrize("key", ["store.secret_access_key", "store.session_token"])
def test_no_error_shows_a_secret(key: str, tmp_path: Path) -> None:
    assert SECRET not in refused({key: f" {SECRET}"})
    file = tmp_path / "bucketry.toml"
    file.write_text(f'{key} = ["{SECRET}"]')
    assert SECRET not in refused(file=file)


@pytest.mark.parametrize("url", [f"https://user:{SECRET}@s3.example", f"https://s3.example?key={SECRET}"])
def test_a_url_with_a_secret_is_refused_without_it(url: str) -> None:
    message = refused({"store.endpoint": url})
    assert message.startswith("store.endpoint (--set): the value ")
    assert SECRET not in message


def test_a_configuration_travels_whole() -> None:
    config = load(None, {}, {**KEYS, "delivery.proxy_networks": "10.0.0.0/8", "limits.header_timeout": "1.5s"}).config
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"store": {"secret_access_key": 1, "url": "hush-hush"}}', b'{"more": 1}']
)
def test_what_is_no_configuration_is_refused_without_a_word_of_it(data: bytes) -> None:
    with pytest.raises(ValueError, match="not one this version wrote") as caught:
        Config.from_json(data)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_configuration_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(AttributeError):
        config.store.url = "other"  # type: ignore[misc]
    assert hash(config) == hash(pickle.loads(pickle.dumps(config)))


def test_the_store_section_is_the_stores_own_options_and_the_url() -> None:
    names = {each.name for each in dataclasses.fields(StoreOptions)}
    # The URL and what the probe finds go to `open_store` beside the options.
    assert names == set(StoreConfig.__struct_fields__) - {"url", "checked_put"}
    assert StoreConfig().options() == StoreOptions()


def test_every_setting_says_what_it_is() -> None:
    for setting in SETTINGS.values():
        assert setting.description.endswith((".", "?")), setting.key
        assert setting.variable == "BUCKETRY_" + setting.key.upper().replace(".", "__")


# TLS

CERT = {"tls.cert": "c.pem", "tls.key": "k.pem"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"tls.cert": "c.pem"}, "tls.cert (--set) needs tls.key beside it"),
        ({"tls.key": "k.pem"}, "tls.key (--set) needs tls.cert beside it"),
        ({"tls.hsts": "365d"}, "tls.hsts (--set) needs tls.cert and tls.key beside it"),
        ({"tls.key_password": SECRET}, "tls.key_password (--set) needs tls.cert and tls.key beside it"),
        ({**CERT, "tls.client_ca": "ca.pem"}, "belong together"),
        ({**CERT, "tls.client_crl": "crl.pem"}, "tls.client_crl (--set) needs tls.client_ca beside it"),
        ({**CERT, "tls.client_certificates": "required"}, "belong together"),
        ({**CERT, "tls.client_certificates": "optional"}, "belong together"),
        ({**CERT, "tls.client_certificates": "perhaps"}, "is not one of none, optional, required"),
        ({**CERT, "tls.min_version": "1.1"}, "is not one of 1.2, 1.3"),
        ({"access.certificate_header": "X Cert"}, "is not the name of a header"),
        ({"access.certificate_header": "Authorization"}, "is a header that clients send"),
        ({"access.certificate_header": "X-Forwarded-For"}, "is a header that clients send"),
    ],
)
def test_what_of_tls_does_not_fit_together_is_refused(flags: Mapping[str, str], says: str) -> None:
    said = refused(flags)
    assert says in said
    assert SECRET not in said


def test_tls_is_off_until_there_is_a_certificate() -> None:
    assert Config().tls.cert is None
    tls = load(None, {}, {**CERT, "tls.hsts": "365d", "tls.key_password": SECRET}).config.tls
    assert (tls.hsts, tls.min_version, tls.reload) == (365 * 86400.0, "1.2", 60.0)
    assert SECRET not in repr(tls)
