"""nginx and Caddy on a site's folder, as its how-to says: with the files that were published beside the images."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.store.seaweed import free_ports, running
from tests.support.ports import answers, wait_until
from tests.support.tools import tool

_NGINX = """\
daemon off;
worker_processes 1;
pid SCRATCH/pid;
error_log SCRATCH/error.log;
events {}
http {
  include /etc/nginx/mime.types;
  access_log off;
  gzip on;
  gzip_types *;
  client_body_temp_path SCRATCH/body;
  proxy_temp_path SCRATCH/proxy;
  fastcgi_temp_path SCRATCH/fastcgi;
  uwsgi_temp_path SCRATCH/uwsgi;
  scgi_temp_path SCRATCH/scgi;
  server {
    listen 127.0.0.1:PORT;
    root FOLDER;
    include FOLDER/bucketry-nginx.conf;
  }
}
"""


@contextmanager
def nginx(folder: Path, scratch: Path) -> Iterator[str]:
    """Gives ``host:port``. ``scratch``: a folder of the server's own."""
    program = tool("nginx")
    (port,) = free_ports(1)
    scratch.mkdir(parents=True)
    config = scratch / "nginx.conf"
    text = _NGINX.replace("SCRATCH", str(scratch)).replace("PORT", str(port)).replace("FOLDER", str(folder))
    # Started as root, its workers are not, and a folder of a test is its owner's.
    config.write_text(f"user root;\n{text}" if os.geteuid() == 0 else text)
    said = subprocess.run([program, "-t", "-c", str(config)], capture_output=True, text=True, timeout=30)
    assert said.returncode == 0, said.stderr
    assert "warn" not in said.stderr, said.stderr
    log = scratch / "log"
    with running([program, "-c", str(config)], log, os.environ) as process:
        wait_until(lambda: answers(port, "/v2/"), seconds=20, what=log.read_text, alive=lambda: process.poll() is None)
        yield f"127.0.0.1:{port}"


@contextmanager
def caddy(folder: Path, scratch: Path) -> Iterator[str]:
    """As `nginx`."""
    program = tool("caddy")
    port, admin = free_ports(2)
    scratch.mkdir(parents=True)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch),
        "XDG_DATA_HOME": str(scratch),
        "XDG_CONFIG_HOME": str(scratch),
        "CADDY_ADMIN": f"127.0.0.1:{admin}",
        "SITE": f"http://127.0.0.1:{port}",
        "SITE_ROOT": str(folder),
    }
    command = [program, "validate", "--config", str(folder / "Caddyfile")]
    said = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)
    assert said.returncode == 0, said.stderr
    assert '"level":"warn"' not in said.stderr, said.stderr
    log = scratch / "log"
    with running([program, "run", "--config", str(folder / "Caddyfile")], log, environ) as process:
        wait_until(lambda: answers(port, "/v2/"), seconds=20, what=log.read_text, alive=lambda: process.poll() is None)
        yield f"127.0.0.1:{port}"
