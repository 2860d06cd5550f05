"""The reference pages, made from what they describe: ``python -m bucketry.cli.reference docs/reference``.

With ``--check`` nothing is written, and the exit code is 1 where a page is stale.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cyclopts import App

from bucketry.cli.app import EXIT_CODES, build
from bucketry.cli.output import complain, write
from bucketry.server.config import FILE_VARIABLE, SECTIONS, SETTINGS, Setting

_MADE = "<!-- Made by `python -m bucketry.cli.reference docs/reference`: change the code, not this page. -->"


_INTRODUCTION = f"""\
Each setting can be given by a flag (`--set SECTION.KEY=VALUE`; `--store`, `--listen` and `--workers` are short
for three of them), by an environment variable (`BUCKETRY_SECTION__KEY`), or in a TOML file (`--config FILE`, or
the variable `{FILE_VARIABLE}`). Flags win over variables, variables over the file, the file over the defaults.
`bucketry config show` prints what is set, and by what. An unknown name is an error.

Sizes are written `8MiB` (1024), `8MB` (1000) or as a number of bytes; durations `500ms`, `30s`, `10m`, `24h`,
`7d` or as a number of seconds; lists, outside of TOML, with commas. An empty variable or flag unsets what has no
default."""


def pages() -> Mapping[str, str]:
    """File name to text."""
    return {"cli.md": _cli(), "configuration.md": _configuration()}


def _cli() -> str:
    app = build()
    blocks = ["# Command line", _MADE, _clean(app.help), *_examples(app)]
    for path, command in _commands(app, ("bucketry",)):
        blocks += [
            f"## {' '.join(path)}",
            f"```console\n{' '.join([*path, *_usage(command)])}\n```",
            _clean(command.help),
        ]
        rows = [
            (
                _code(" ".join([*argument.names, argument.parameter.metavar or ""]).strip()),
                argument.parameter.help or "",
            )
            for argument in command.assemble_argument_collection()
            if argument.show
        ]
        blocks += [_table(("Argument", "Meaning"), rows), *_examples(command)]
    blocks += [
        "## Exit codes",
        _table(("Code", "Meaning"), [(str(code), meaning) for code, meaning in EXIT_CODES.items()]),
    ]
    return "\n\n".join(blocks) + "\n"


def _commands(app: App, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], App]]:
    for name in app:
        if name.startswith("-"):
            continue
        command = app[name]
        if command.default_command is None:
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _usage(command: App) -> Iterator[str]:
    arguments = [argument for argument in command.assemble_argument_collection() if argument.show]
    for argument in arguments:
        if not argument.name.startswith("-"):
            yield argument.name if argument.required else f"[{argument.name}]"
    yield "[OPTIONS]"


def _examples(command: App) -> list[str]:
    return [_clean(command.help_epilogue)] if command.help_epilogue else []


def _clean(text: str | None) -> str:
    """Docstring to Markdown; code that is indented becomes a block with fences."""
    blocks = []
    for block in inspect.cleandoc(text or "").split("\n\n"):
        lines = block.split("\n")
        code = all(line.startswith("    ") for line in lines)
        body = "\n".join(line.strip() for line in lines)
        blocks.append(f"```console\n{body}\n```" if code else body)
    return "\n\n".join(blocks)


def _configuration() -> str:
    blocks = [
        "# Configuration",
        _MADE,
        _INTRODUCTION,
        "```toml\n"
        '[store]\nurl = "s3://my-bucket/registry"\nendpoint = "https://minio.example:9000"\n\n'
        '[upload]\npart_size = "16MiB"\nmemory = "256MiB"\n'
        "```",
    ]
    for name, section in SECTIONS.items():
        rows = [
            (_code(setting.name), _values(setting), _default(setting), setting.description)
            for setting in SETTINGS.values()
            if setting.section == name
        ]
        blocks += [f"## [{name}]", inspect.getdoc(section) or "", _table(("Key", "Values", "Default", "Meaning"), rows)]
    return "\n\n".join(blocks) + "\n"


_FORMS = {
    "flag": "`true`, `false`",
    "text": "text",
    "listen": "`HOST:PORT`",
    "header": "name of a header",
    "origin": "URL without a path",
    "url": "URL",
    "networks": "list of networks (CIDR)",
}


def _values(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(_code(choice) for choice in setting.choices)
    if setting.least is not None:
        kind = "number" if setting.form == "count" else setting.form
        return f"{kind}, {_code(setting.show(setting.least))} to {_code(setting.show(setting.most))}"
    return _FORMS[setting.form]


def _default(setting: Setting) -> str:
    if setting.default is None:
        return "not set"
    return _code(setting.show(setting.default)) if setting.default != () else "none"


def _code(text: str) -> str:
    return f"`{text}`"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    folders = [argument for argument in arguments if argument != "--check"]
    if len(folders) != 1:
        complain("usage: python -m bucketry.cli.reference [--check] FOLDER")
        return 2
    stale = 0
    for name, text in pages().items():
        page = Path(folders[0], name)
        if page.exists() and page.read_text() == text:
            continue
        stale += 1
        if check:
            complain(f"{page} is stale: run python -m bucketry.cli.reference {folders[0]}")
        else:
            page.write_text(text)
            write(str(page))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
