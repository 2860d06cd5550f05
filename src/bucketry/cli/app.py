"""The commands put together, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from bucketry import __version__
from bucketry.cli import access, adopt, config, copy, doctor, inspect, login, publish, pull, push, serve, token, version
from bucketry.cli.output import complain

FAILED, USAGE, BROKEN, INTERRUPTED = 1, 2, 3, 130
EXIT_CODES = {
    0: "It is done.",
    FAILED: "It failed, or the store is refused; of `bucketry access explain`: it is denied.",
    USAGE: "It was asked for wrongly: an option, a size, the name of an image or a store, or a file of settings or "
    "credentials that cannot be.",
    BROKEN: "An adoption came to its end, and left out what is broken in the old registry: each is told with its path.",
    INTERRUPTED: "Ctrl-C. A push, pull, copy or adoption goes on where it was when the same command is given again.",
    143: "SIGTERM, during a push, pull, copy or adoption: as Ctrl-C.",
}
"""What a process of any command ends with, and what it means."""

_WELCOME = """
Your bucket is the registry: an OCI container registry whose only state is an S3 bucket or a local folder.
"""

_START = """
To begin:

    bucketry serve

and, in another shell:

    docker pull alpine
    docker tag alpine localhost:5000/alpine:v1
    docker push localhost:5000/alpine:v1

`bucketry COMMAND --help` tells more of each command. Every setting: `bucketry config show`.
"""


# Defaults are said in words: most of them are the configuration's.
_NO_DEFAULTS = Parameter(show_default=False)


def build() -> App:
    """The command line, as cyclopts has it."""
    app = App(
        name="bucketry",
        help=_WELCOME,
        help_epilogue=_START,
        help_format="markdown",
        version=f"bucketry {__version__}",
        default_parameter=_NO_DEFAULTS,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.command(serve.serve, help_epilogue=serve.EXAMPLES, sort_key=1)
    app.command(push.push, help_epilogue=push.EXAMPLES, sort_key=2)
    app.command(pull.pull, help_epilogue=pull.EXAMPLES, sort_key=3)
    app.command(copy.copy, help_epilogue=copy.EXAMPLES, sort_key=4)
    app.command(publish.publish, help_epilogue=publish.EXAMPLES, sort_key=4)
    app.command(inspect.inspect, help_epilogue=inspect.EXAMPLES, sort_key=5)
    app.command(adopt.adopt, help_epilogue=adopt.EXAMPLES, sort_key=6)
    app.command(login.login, help_epilogue=login.LOGIN_EXAMPLES, sort_key=7)
    app.command(login.logout, help_epilogue=login.LOGOUT_EXAMPLES, sort_key=8)
    app.command(doctor.doctor, help_epilogue=doctor.EXAMPLES, sort_key=9)
    settings = App(
        name="config",
        help="Look at the configuration.",
        help_epilogue="",
        default_parameter=_NO_DEFAULTS,
        sort_key=10,
    )
    settings.command(config.show, help_epilogue=config.EXAMPLES)
    app.command(settings)
    rules = App(
        name="access",
        help="Look at who may do what.",
        help_epilogue="",
        default_parameter=_NO_DEFAULTS,
        sort_key=10,
    )
    rules.command(access.check, help_epilogue=access.CHECK_EXAMPLES)
    rules.command(access.explain, help_epilogue=access.EXPLAIN_EXAMPLES)
    rules.command(access.hash_, name="hash", help_epilogue=access.HASH_EXAMPLES)
    app.command(rules)
    robots = App(
        name="token",
        help="Make tokens for programs, list and revoke them.",
        help_epilogue="",
        default_parameter=_NO_DEFAULTS,
        sort_key=10,
    )
    robots.command(token.create, help_epilogue=token.CREATE_EXAMPLES)
    robots.command(token.list_, name="list", help_epilogue=token.LIST_EXAMPLES)
    robots.command(token.revoke, help_epilogue=token.REVOKE_EXAMPLES)
    app.command(robots)
    app.command(version.version, help_epilogue="", sort_key=11)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (without the program's name) and gives the exit code: one of `EXIT_CODES`."""
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in tokens
    try:
        result = build()(tokens, exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) left. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    # The outermost loop of the process: whatever it is, a person gets a line, and the traceback on request.
    except Exception as error:  # noqa: BLE001
        if debug:
            traceback.print_exc()
        return _explain(error)
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> int:
    from bucketry.server.config import ConfigError
    from bucketry.store.contract import StoreError
    from bucketry.store.open import StoreNameInvalid
    from bucketry.transfer.errors import Misconfigured, NameUnusable, TransferError

    if isinstance(error, CycloptsError):
        complain(f"{error} ({' '.join(('bucketry', *(error.command_chain or ())))} --help)")
        return USAGE
    if isinstance(error, ConfigError | StoreNameInvalid | NameUnusable | Misconfigured):
        complain(str(error))
        return USAGE
    if isinstance(error, StoreError | TransferError):
        complain(str(error) or type(error).__name__)
        return FAILED
    if isinstance(error, OSError):
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return FAILED
    complain(f"unexpected {type(error).__name__}: {error}; --debug shows where. Please report it.")
    return FAILED
