"""The console script `sgn`: thin names for the commands of sgn_serve, training and export.

Each command parses its own options. It is imported once it is asked for.
"""

import importlib
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from typing import NoReturn

from sgn_serve.common.command_parser import USAGE_ERROR, CommandParser, did_you_mean
from sgn_serve.common.error_text import say
from sgn_serve.common.interrupts import importing
from sgn_serve.process.version import DISTRIBUTION, package_version

PROGRAM = "sgn"


@dataclass(frozen=True)
class Command:
    """A command of `sgn`.

    Attributes:
        module: The module with its main function.
        help: Its line in `sgn --help`.
        main: The name of that function, which takes the arguments and the program's name and returns an exit status.
    """

    module: str
    help: str
    main: str = "main"


COMMANDS = {
    "train": Command("training.command", "train a network on a data set or on a folder of pictures"),
    "convert": Command("training.convert.command", "make a checkpoint of another program's weights"),
    "judge": Command("training.evaluate.command", "attack a checkpoint and report what it withstands"),
    "export": Command("export.command", "write a checkpoint as one graph, checked against PyTorch", main="run"),
    "classify": Command("sgn_serve.classify.command", "classify many pictures into one table, without a server"),
    "report": Command("sgn_serve.classify.report.command", "compare such a table with the true labels"),
    "serve": Command("sgn_serve.command", "classify pictures over HTTP with an exported graph"),
    "reproduce": Command("training.reproduce.command", "make a table or figure of the paper, and compare it"),
}

HELP = f"""\
usage: {PROGRAM} COMMAND [options]

Train, judge, export and serve robust image classifiers.

commands:
{chr(10).join(f"  {name:<9}  {command.help}" for name, command in COMMANDS.items())}

from a folder of pictures, photos/CLASS/*.jpg, to an answer:
  {PROGRAM} train --data-root photos --arch wrn-16-2 --minutes 60 --run photos
  {PROGRAM} judge --ckpt runs/photos/model.safetensors --data-root photos
  {PROGRAM} export --ckpt runs/photos/model.safetensors --onnx photos.onnx
  {PROGRAM} serve --model photos.onnx
  curl -F image=@cat.jpg http://localhost:3000/classify

{PROGRAM} COMMAND --help lists the options of a command; {PROGRAM} --version tells the version.
"""


class _Parser(CommandParser):
    """The parser of what stands before a command."""

    def format_help(self) -> str:
        """Return the commands and the way from a folder to an answer."""
        return HELP


def build_parser() -> CommandParser:
    """Return the parser of what stands before a command."""
    parser = _Parser(PROGRAM)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {package_version()}")
    parser.add_argument("command", metavar="COMMAND")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name and return its exit status.

    Args:
        argv: The arguments. None takes those of the process.
    """
    arguments = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    if not arguments:
        print(HELP, end="")
        return USAGE_ERROR
    name, *rest = arguments
    if name == "help":
        print(HELP, end="")
        return 0
    if name not in COMMANDS:
        _refuse(parser, arguments)
    command = COMMANDS[name]
    try:
        with importing():
            run = getattr(importlib.import_module(command.module), command.main)
        status: int = run(rest, f"{PROGRAM} {name}")
    except ModuleNotFoundError as error:
        extra = _extra_with(error.name or "", name)
        if extra is None:
            raise
        say(
            f"error: {PROGRAM} {name} needs {error.name}, which is not installed; install the rest with "
            f'pip install "{DISTRIBUTION}[{extra}]", or in a checkout: pip install ".[{extra}]"',
        )
        return USAGE_ERROR
    return status


def _refuse(parser: CommandParser, arguments: list[str]) -> NoReturn:
    """End the program: print help or the version where that is asked for, and an error otherwise."""
    if arguments[0].startswith("-"):
        parser.parse_args(arguments[:1])
    suggested = did_you_mean(arguments[0], COMMANDS)
    parser.error(f"unknown command {arguments[0]!r}; {suggested}known are: {', '.join(COMMANDS)}")


def _extra_with(module: str, name: str) -> str | None:
    """Return the extra of this package to install for a module that a command lacks, None where none has it.

    Modules that are not called as their distribution, such as PIL, are needed by serving and belong to no extra.

    Args:
        module: The missing module.
        name: The command. An extra of its name is preferred, and then the smallest one.
    """
    top = module.partition(".")[0].lower()
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return None
    contents: dict[str, list[str]] = {}
    for line in lines:
        found = re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", line)
        if found:
            contents.setdefault(found[2], []).append(found[1].replace("-", "_").lower())
    extras = [extra for extra, distributions in contents.items() if top in distributions]
    return min(extras, key=lambda extra: (extra != name, len(contents[extra])), default=None)
