"""The command `python -m sgn_serve`: `bentoml serve` of our service, with the settings as options.

It is quiet on Ctrl-C from its first import on. BentoML is imported once the settings are checked.
"""

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from typing import Any

from sgn_serve.common.command_parser import CommandParser
from sgn_serve.common.interrupts import end_server_quietly
from sgn_serve.common.refusals import ServingError, refused
from sgn_serve.settings import Settings, flag_of, settings_table, with_flags

PROGRAM = "python -m sgn_serve"
SERVICE = "sgn_serve.service:RobustClassifier"

SHOWN = (
    "SGN_MODEL",
    "SGN_SELF_GRADIENT",
    "SGN_TOP_K",
    "SGN_MAX_DISAGREEMENT",
    "SGN_ENGINE",
    "SGN_PROVIDERS",
    "SGN_THREADS",
)
"""Settings that --help shows; --help-all shows all of them."""

EPILOG = """\
Every option but the first two is a setting, which its environment variable sets too: --max-batch is SGN_MAX_BATCH.
SGN_API_TOKEN, the bearer token that requests need, is an environment variable alone, for options can be seen by others.
Everything after -- is handed to `bentoml serve`.
"""


class _HelpAll(argparse.Action):
    """Print the help with every setting, and end the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        build_parser(parser.prog, everything=True).print_help()
        parser.exit()


def build_parser(program: str = PROGRAM, *, everything: bool = False) -> CommandParser:
    """Return the parser.

    Args:
        program: Name of the program in --help and errors.
        everything: Whether --help shows every setting.
    """
    parser = CommandParser(
        program,
        description="Serves an exported graph over HTTP, by default the bundled model on http://localhost:3000.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--host",
        type=_host,
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 for every network, and then set SGN_API_TOKEN (default: BENTOML_HOST, else "
        "127.0.0.1)",
    )
    parser.add_argument("-p", "--port", type=_port, metavar="N", help="port (default: BENTOML_PORT, else 3000)")
    for row in settings_table():
        if not row.secret:
            text = f"{row.meaning} (default: {row.default})".replace("%", "%%")
            shown = everything or row.variable in SHOWN
            parser.add_argument(
                flag_of(row), dest=row.variable, metavar="VALUE", help=text if shown else argparse.SUPPRESS
            )
    parser.add_argument("--help-all", action=_HelpAll, help="show every setting, and end")
    parser.add_argument("bentoml", nargs="*", help=argparse.SUPPRESS)
    return parser


def _host(text: str) -> str:
    if text.lower() == "localhost":
        return "127.0.0.1"
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address of this machine; give its number, such as 127.0.0.1, or 0.0.0.0 for all"
        ) from None
    return text


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdecimal() else -1
    if not 0 < port < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 1 to 65535")
    return port


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Serve until a signal comes, and return the exit status.

    Args:
        argv: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    arguments = sys.argv[1:] if argv is None else argv
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    parsed = vars(build_parser(program).parse_args(ours))
    host, port = parsed.pop("host"), parsed.pop("port")
    try:
        host = host or (_host(inherited) if (inherited := os.environ.get("BENTOML_HOST")) else None)
        port = port or (_port(inherited) if (inherited := os.environ.get("BENTOML_PORT")) else None)
    except argparse.ArgumentTypeError as error:
        build_parser(program).error(f"BENTOML_HOST and BENTOML_PORT: {error}")
    handed_on = parsed.pop("bentoml")
    if handed_on:
        build_parser(program).error(f"{handed_on[0]!r} is no option; to serve a graph write --model {handed_on[0]}")
    given = {variable: text for variable, text in parsed.items() if text is not None}
    try:
        Settings.from_environment({**os.environ, **given})
    except ServingError as error:
        return refused(error, with_flags(str(error), given))
    os.environ.update(given)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

    end_server_quietly()
    from sgn_serve.process.bentoml_internals import run_bentoml  # its import takes seconds

    where = [*(["--host", host] if host else []), *(["--port", str(port)] if port else [])]
    run_bentoml(["serve", SERVICE, *where, *arguments[len(ours) + 1 :]])
    return 0
