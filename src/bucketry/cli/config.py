"""``bucketry config show``: what is set, and by what."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from bucketry.cli.options import Common, ConfigOptions, ServerOptions, load_config
from bucketry.cli.output import write, write_json

EXAMPLES = """
What a server would run with:

    bucketry config show --config /etc/bucketry.toml

Only what is not a default:

    bucketry config show | grep -v default
"""


def show(
    *,
    json: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Print a list of objects: key, value (sizes in bytes, durations in seconds), origin.",
        ),
    ] = False,
    server: ServerOptions = ServerOptions(),  # noqa: B008 (frozen)
    config: ConfigOptions = ConfigOptions(),  # noqa: B008
    common: Common = Common(),  # noqa: B008
) -> int:
    """Show every setting, its value, and where that came from.

    Flags win over environment variables (BUCKETRY_SECTION__KEY), these over the file, and that over the defaults.
    Secrets are masked.
    """
    from bucketry.server.config import MASK, SETTINGS

    loaded = load_config(config, server.flags())
    values = {setting: getattr(getattr(loaded.config, setting.section), setting.name) for setting in SETTINGS.values()}
    if json:
        write_json(
            [
                {
                    "key": setting.key,
                    "value": MASK if setting.secret and value is not None else value,
                    "origin": loaded.origins[setting.key],
                }
                for setting, value in values.items()
            ]
        )
        return 0
    rows = [(setting.key, setting.show(value) or "-", loaded.origins[setting.key]) for setting, value in values.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, text, origin in rows:
        write(f"{key:{widths[0]}}  {text:{widths[1]}}  {origin}")
    return 0
