"""What a person reads who has just started a server."""

from __future__ import annotations

from bucketry import __version__
from bucketry.server.config import Config

_ANYWHERE = ("0.0.0.0", "::")


def welcome(config: Config, workers: int) -> str:
    """Where it listens, where it keeps things, and what to type next."""
    host, port = config.server.host, config.server.port
    name = "localhost" if host in (*_ANYWHERE, "127.0.0.1", "::1") else host
    address = f"{name}:{port}"
    scheme, rules, login = "http", "", ""
    if config.tls.cert is not None:
        scheme = "https"
        rules += f"  certificate    {config.tls.cert}\n"
        if config.tls.client_certificates == "required":
            rules += f"  only clients   with a certificate of {config.tls.client_ca}\n"
    if config.access.file is not None:
        rules, login = f"{rules}  rules in       {config.access.file}\n", f"  docker login {address}\n"
    elif config.access.insecure_open:
        rules += "  rules          none: whoever reaches it may push and delete\n"
    return f"""
bucketry {__version__}
  listening on   {scheme}://{config.server.listen}  ({workers} worker{"s" if workers > 1 else ""})
  everything in  {config.store.url}
{rules}
Try it, in another shell:
{login}  docker pull alpine
  docker tag alpine {address}/alpine:v1
  docker push {address}/alpine:v1
  curl {scheme}://{address}/v2/_catalog

Ctrl-C stops it. `bucketry config show` lists every setting.

"""
