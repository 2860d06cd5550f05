"""``bucketry doctor``: what a store really does."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bucketry.cli.options import Common, ConfigOptions, load_config
from bucketry.cli.output import console, write, write_json

if TYPE_CHECKING:
    from bucketry.server.config import StoreConfig
    from bucketry.store.probe import ProbeReport

EXAMPLES = """
A bucket of AWS, with the usual AWS credentials:

    bucketry doctor s3://my-bucket/registry

Another S3 service:

    bucketry doctor s3://my-bucket --set store.endpoint=https://s3:9000

The store of a server's configuration:

    bucketry doctor --config /etc/bucketry.toml
"""


def doctor(
    store: Annotated[
        str | None,
        Parameter(
            help="`s3://BUCKET/PREFIX`, a folder, or `memory:`. Default: the configured one, or `./bucketry-data`"
        ),
    ] = None,
    /,
    *,
    json: Annotated[bool, Parameter(negative=(), help="Print the result as JSON.")] = False,
    quick: Annotated[bool, Parameter(negative=(), help="Only what a server checks when it starts.")] = False,
    config: ConfigOptions = ConfigOptions(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008
) -> int:
    """Find out whether a store can hold a registry, and which features it enables.

    It writes some 10 MiB below probe/ and data/~probe/, reads them, races for them, and removes them again. The exit
    code is 0 where the store can be used, and 1 where a server would refuse it.
    """
    loaded = load_config(config, {"--store": store})
    import asyncio

    report = asyncio.run(_examine(loaded.config.store, quick=quick))
    if json:
        write_json(
            {"store": report.url, "refusal": report.refusal(), "checks": [asdict(each) for each in report.checks]}
        )
    else:
        _print(report)
    return 0 if report.refusal() is None else 1


async def _examine(config: StoreConfig, *, quick: bool) -> ProbeReport:
    import secrets

    from bucketry.store.open import open_store
    from bucketry.store.probe import probe

    store = open_store(config.url, config.options())
    with console(stderr=True).status(f"Opening {store.url}") as status:
        try:
            await store.start()
            return await probe(
                store,
                ids=lambda: secrets.token_hex(8),
                quick=quick,
                progress=lambda name: status.update(f"Trying {name}"),
            )
        finally:
            await store.close()


def _print(report: ProbeReport) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=report.url, title_justify="left", title_style="bold", show_edge=False)
    for header in ("check", "result", "seen", "what it means"):
        table.add_column(header, overflow="fold")
    for check in report.checks:
        style = "green" if check.status == "ok" else "red bold" if check.weight == "must" else "yellow"
        table.add_row(check.name, Text(check.status, style), Text(check.seen), Text(check.means))
    console().print(table)
    refusal = report.refusal()
    write("")
    write("This store can hold a registry." if refusal is None else f"Refused: {refusal}.")
