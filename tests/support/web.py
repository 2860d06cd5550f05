"""Web servers on a folder that `bucketry publish` wrote, each by the file that it put there for them."""

from __future__ import annotations

import os
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.store.seaweed import free_ports
from tests.support import ports
from tests.support.server import Daemon, ended, start
from tests.support.tls import Tls
from tests.support.tools import search_path, tool

NGINX = """
daemon off;
worker_processes 2;
pid {folder}/pid;
error_log stderr notice;
events {{}}
http {{
  access_log {folder}/access.log;
  types {{
    text/html html;
    application/json json;
  }}
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {server}
}}
"""

SITE = """
  server {{
    listen 127.0.0.1:{http};
    listen 127.0.0.1:{https} ssl http2;
    ssl_certificate {tls.certificate};
    ssl_certificate_key {tls.key};
    gzip on;
    gzip_types *;
    root "{root}";
    include "{root}/bucketry-nginx.conf";
  }}
"""

FRONT = """
  server {{
    listen 127.0.0.1:{http};
    location / {{ proxy_pass http://127.0.0.1:{bucket}; }}
    location = /v2/ {{ return 403; }}
    location = /ready {{ return 200; }}
  }}
"""

CADDY = """
{{
  admin off
  skip_install_trust
  auto_https disable_redirects
  pki {{
    ca local {{
      root {{
        cert {tls.authority}
        key {tls.authority_key}
      }}
    }}
  }}
}}
import "{root}/Caddyfile"
"""


@dataclass(frozen=True)
class WebServer:
    """Ports of 127.0.0.1; 0 where there is none. ``access``: a log of requests, of nginx."""

    http: int
    https: int
    daemon: Daemon
    access: Path


def answers(port: int, path: str, tls: Tls) -> bool:
    """Whether a GET of ``path`` on 127.0.0.1 by https gets a 2xx."""
    trusted = ssl.create_default_context(cafile=tls.authority)
    try:
        with urllib.request.urlopen(f"https://127.0.0.1:{port}{path}", timeout=2, context=trusted) as answer:
            return bool(200 <= answer.status < 300)
    except OSError:
        return False


@contextmanager
def nginx(root: Path, folder: Path, tls: Tls) -> Iterator[WebServer]:
    """The site in ``root`` by http and by https; ``folder`` takes all that the server writes."""
    http, https = free_ports(2)
    with _nginx(SITE.format(root=root, tls=tls, http=http, https=https), folder, http, "/v2/") as daemon:
        yield WebServer(http, https, daemon, folder / "access.log")


@contextmanager
def front(bucket: int, folder: Path) -> Iterator[WebServer]:
    """What is at the port ``bucket``, but for ``/v2/``: nobody is let in there."""
    (http,) = free_ports(1)
    with _nginx(FRONT.format(bucket=bucket, http=http), folder, http, "/ready") as daemon:
        yield WebServer(http, 0, daemon, folder / "access.log")


@contextmanager
def _nginx(server: str, folder: Path, port: int, path: str) -> Iterator[Daemon]:
    """It is ready when ``path`` is answered at the port."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    text = NGINX.format(folder=folder, server=server)
    # Workers of a server that root starts are another user, whom the folders of a test are closed to.
    config.write_text(f"user root;{text}" if os.geteuid() == 0 else text)
    log = folder / "log"
    daemon = Daemon(start([tool("nginx"), "-p", folder, "-e", "stderr", "-c", config], log), log)
    with ended(daemon, lambda: ports.answers(port, path)):
        yield daemon


@contextmanager
def caddy(root: Path, folder: Path, tls: Tls) -> Iterator[WebServer]:
    """As `nginx`, with a certificate that Caddy makes itself, below the authority of ``tls``."""
    folder.mkdir(parents=True, exist_ok=True)
    http, https = free_ports(2)
    config = folder / "Caddyfile"
    config.write_text(CADDY.format(root=root, tls=tls))
    env = {
        "PATH": search_path(),
        "HOME": str(folder),
        "SITE": f"http://127.0.0.1:{http}, https://127.0.0.1:{https}",
        "SITE_ROOT": str(root),
    }
    log = folder / "log"
    daemon = Daemon(start([tool("caddy"), "run", "--config", config], log, env=env, cwd=folder), log)
    with ended(daemon, lambda: answers(https, "/v2/", tls)):
        yield WebServer(http, https, daemon, folder / "none")
