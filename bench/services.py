"""The S3 server, what caps its connections, and the two registries: each a context manager, on a port of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from bench.processes import accepts, answers, find_program, free_ports, require_program, running, settle

REGION = "us-east-1"
ACCESS_KEY = "BENCH"
SECRET_KEY = "bench-secret"
BUCKETS = ("peer", "bucketry")
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of a running S3 server. ``metrics`` is the port of that server's own counters."""

    name: str
    port: int
    metrics: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signed(self, keys: Sequence[str]) -> list[str]:
        """Paths, with their queries, by which anyone may GET the keys for an hour."""
        client = _s3_client(self.port)
        try:
            urls = [client.generate_presigned_url("get_object", {"Bucket": self.name, "Key": key}) for key in keys]
        finally:
            client.close()
        return [url.removeprefix(self.endpoint) for url in urls]


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry: ``pid`` is the process that all its others come from; ``authority``: of its HTTPS."""

    name: str
    port: int
    pid: int
    authority: Path | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """Files in PEM: a certificate for 127.0.0.1, which vouches for itself, and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """The registry to compare with: CNCF distribution, by its program."""

    program: str
    version: str


def find_peer(program: str | None) -> Peer:
    """distribution v3 where it is installed or can be built, or else Debian's docker-registry (2.8).

    Raises `processes.Missing`.
    """
    found = program or find_program("registry") or _build_peer() or find_program("docker-registry")
    if found is None:
        found = require_program("registry", ".ci/tools go, or Debian's package docker-registry")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return Peer(found, said[-1].removeprefix("v").removesuffix("+unknown"))


def _build_peer() -> str | None:
    tools = Path(__file__).parent.parent / ".ci" / "tools"
    if find_program("go") is None or not tools.exists():
        return None
    print("building the peer once, distribution v3: .ci/tools go", flush=True)
    subprocess.run([tools, "go"], check=False)
    return find_program("registry")


class Services:
    """Starts servers. Their files are below ``memory`` (a tmpfs, if there is one), or ``disk`` where they are large."""

    def __init__(self, memory: Path, disk: Path, peer: Peer) -> None:
        self._memory = memory
        self._disk = disk
        self._peer = peer
        self._numbers = count(1)

    @contextmanager
    def scratch(self, name: str, *, expected: int = 0) -> Iterator[Path]:
        """A folder for a block, for ``expected`` bytes: in memory, where that leaves as much again."""
        parent = self._disk if expected > _available_memory() // 2 else self._memory
        place = parent / f"{next(self._numbers):03d}-{name}"
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @contextmanager
    def seaweed(self, *, expected: int = 0) -> Iterator[tuple[Bucket, Bucket]]:
        """A SeaweedFS with a bucket for the peer and one for bucketry, which will hold ``expected`` bytes."""
        weed = require_program("weed", "make dev")
        with self.scratch("seaweed", expected=expected) as place, ExitStack() as stack:
            data, config = place / "data", place / "s3.json"
            data.mkdir()
            keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
            actions = ["Admin", "Read", "Write", "List", "Tagging"]
            config.write_text(json.dumps({"identities": [{"name": "bench", "credentials": keys, "actions": actions}]}))
            ports = free_ports(9)
            options = {
                "ip": "127.0.0.1",
                "ip.bind": "127.0.0.1",
                "dir": data,
                "master.port": ports[0],
                "master.port.grpc": ports[1],
                "master.telemetry": "false",
                "master.volumeSizeLimitMB": 1024,
                "volume.port": ports[2],
                "volume.port.grpc": ports[3],
                "volume.max": 100,
                "volume.preStopSeconds": 0,
                "filer.port": ports[4],
                "filer.port.grpc": ports[5],
                # Relative to its folder: the path of a socket must be short.
                "filer.localSocket": "filer.sock",
                "s3.port": ports[6],
                "s3.port.grpc": ports[7],
                "s3.localSocket": "s3.sock",
                "s3.config": config,
                "s3.port.iceberg": 0,
                "s3.port.lance": 0,
                "s3.autoCreateBucket": "false",
                "metricsPort": ports[8],
                "metricsIp": "127.0.0.1",
            }
            command = [weed, "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]
            peers, ours = (Bucket(name, ports[6], ports[8]) for name in BUCKETS)
            stack.callback(_remove_sockets, ports)
            stack.enter_context(
                running(
                    "SeaweedFS",
                    command,
                    place / "log",
                    # No AWS_* of the caller's: weed takes them for an identity of its own.
                    env=environ(HOME=str(place)),
                    ready=lambda: accepts(ports[6]) and _takes_writes(ports[6]),
                    grace=0,  # Its data is thrown away.
                )
            )
            yield peers, ours

    @contextmanager
    def capped(self, bucket: Bucket, rate: str) -> Iterator[Bucket]:
        """The bucket by a way on which each connection has ``rate`` bytes a second (``10m``), up and down.

        nginx waits after each buffer, in whole milliseconds: with its default of 16 KiB a lone connection gets up to a
        quarter more than with many beside it.
        """
        nginx = require_program("nginx", "sudo .ci/tools apt")
        with self.scratch("cap") as place:
            (port,) = free_ports(1)
            config = place / "nginx.conf"
            load = f"load_module {_STREAM_MODULE};\n" if _STREAM_MODULE.exists() else ""
            config.write_text(
                f"{load}daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/log warn;\n"
                "events { worker_connections 1024; }\n"
                f"stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{bucket.port};\n"
                f"proxy_upload_rate {rate}; proxy_download_rate {rate}; proxy_buffer_size 256k; }} }}\n"
            )
            command = [nginx, "-p", str(place), "-c", str(config)]
            with running("nginx", command, place / "log", env=environ(), ready=lambda: accepts(port)):
                yield Bucket(bucket.name, port, bucket.metrics)

    @contextmanager
    def peer(self, where: Bucket | Path, *, cache: bool = True, keys: Keys | None = None) -> Iterator[Registry]:
        """The peer with its defaults. ``cache``: with its in-memory cache of blob descriptors, which it does not have
        by default, but which the configurations that its image and its Debian package bring switch on."""
        with self.scratch("peer") as place:
            (port,) = free_ports(1)
            storage: dict[str, object] = {"filesystem": {"rootdirectory": str(where)}}
            if isinstance(where, Bucket):
                options: dict[str, object] = {
                    "region": REGION,
                    "regionendpoint": where.endpoint,
                    "bucket": where.name,
                    "accesskey": ACCESS_KEY,
                    "secretkey": SECRET_KEY,
                    "secure": False,
                    "v4auth": True,
                }
                if self._peer.version.startswith("3"):
                    options["forcepathstyle"] = True
                storage = {"s3": options}
            if cache:
                storage["cache"] = {"blobdescriptor": "inmemory"}
            http: dict[str, object] = {"addr": f"127.0.0.1:{port}", "secret": "bench"}
            if keys is not None:
                http["tls"] = {"certificate": str(keys.certificate), "key": str(keys.key)}
            authority = None if keys is None else keys.certificate
            config = place / "config.yml"  # JSON is YAML too.
            config.write_text(
                json.dumps(
                    {
                        "version": 0.1,
                        "storage": storage,
                        "http": http,
                    }
                )
            )
            command = [self._peer.program, "serve", str(config)]
            with running(
                "the peer",
                command,
                place / "log",
                env=environ(OTEL_TRACES_EXPORTER="none"),
                ready=lambda: answers(port, "/v2/", authority),
            ) as pid:
                settle(pid)
                yield Registry("peer" if cache else "peer without cache", port, pid, authority)

    @contextmanager
    def bucketry(self, where: Bucket | Path, *options: str, keys: Keys | None = None) -> Iterator[Registry]:
        """bucketry with its defaults, and these options. ``keys``: it speaks HTTPS."""
        program = require_program("bucketry", "make setup")
        with self.scratch("bucketry") as place:
            (port,) = free_ports(1)
            store, env, also = str(where), environ(), []
            if isinstance(where, Bucket):
                store = f"s3://{where.name}"
                env = environ(
                    AWS_ACCESS_KEY_ID=ACCESS_KEY,
                    AWS_SECRET_ACCESS_KEY=SECRET_KEY,
                    AWS_REGION=REGION,
                    AWS_EC2_METADATA_DISABLED="true",
                )
                also = ["--set", f"store.endpoint={where.endpoint}"]
            authority = None if keys is None else keys.certificate
            if keys is not None:
                also += ["--set", f"tls.cert={keys.certificate}", "--set", f"tls.key={keys.key}"]
            command = [program, "serve", "--store", store, "--listen", f"127.0.0.1:{port}", *also, *options]
            with running(
                "bucketry", command, place / "log", env=env, ready=lambda: answers(port, "/readyz", authority)
            ) as pid:
                settle(pid)
                yield Registry("bucketry", port, pid, authority)


def _available_memory() -> int:
    """Bytes; 0 where this system does not tell."""
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def environ(**also: str) -> dict[str, str]:
    """What servers see of the environment: no setting of the person who runs this."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | also


def _remove_sockets(ports: Sequence[int]) -> None:
    """weed makes sockets named after its gRPC ports in /tmp, and leaves them there when it is killed."""
    for port in ports:
        for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            socket.unlink(missing_ok=True)


def _s3_client(port: int) -> Any:
    """Of botocore, which has no types."""
    return Session().create_client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(
            s3={"addressing_style": "path"}, signature_version="s3v4", request_checksum_calculation="when_required"
        ),
    )


def _takes_writes(port: int) -> bool:
    """Makes the buckets, and says whether objects can be written: volumes come up last."""
    client = _s3_client(port)
    try:
        for bucket in BUCKETS:
            with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="~ready", Body=b"ready")
            client.delete_object(Bucket=bucket, Key="~ready")
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True
