"""``bucketry serve``: the registry."""

from __future__ import annotations

from bucketry.cli.options import Common, ConfigOptions, ServerOptions, load_config

EXAMPLES = """
Try it:

    bucketry serve

and, in another shell:

    docker pull alpine
    docker tag alpine localhost:5000/alpine:v1
    docker push localhost:5000/alpine:v1

On a bucket of AWS, with the usual AWS credentials:

    bucketry serve --store s3://my-bucket --listen 0.0.0.0:5000 --access my.toml

On another S3 service:

    bucketry serve --store s3://my-bucket --set store.endpoint=https://s3:9000

With everything in a file:

    bucketry serve --config /etc/bucketry.toml
"""


def serve(
    *,
    server: ServerOptions = ServerOptions(),  # noqa: B008 (frozen)
    config: ConfigOptions = ConfigOptions(),  # noqa: B008
    common: Common = Common(),  # noqa: B008
) -> int:
    """Run the registry.

    Without options it serves 127.0.0.1:5000 and keeps everything in ./bucketry-data. Any number of servers may run on
    one bucket. It stops on SIGTERM or Ctrl-C, after the requests that run have ended.
    """
    loaded = load_config(config, server.flags())
    from bucketry.server.run import run

    return run(loaded)
