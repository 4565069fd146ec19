"""Make a command line and a table from a record whose fields describe themselves.

An option is a field `name: Annotated[type, Option(...)] = default` of a frozen dataclass. Its flag, how argparse reads
it, its line of --help, its check and its row in the documentation follow from that.
"""

import argparse
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sgn_serve.common.command_parser import file_to_write, path_text
from training.common.command_line import INTENSITY, Option, flag, number


@dataclass(frozen=True)
class DescribedOption:
    """An option with all that its field says.

    Attributes:
        name: The field's name.
        type: Its type without the annotation, such as float or a Literal.
        default: Its default; dataclasses.MISSING where it has none, or one that is made anew.
        option: Its help, range and methods, with the choices that its type names.
    """

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def kind(self) -> str:
        """Choice, switch, or the kind of value: integer, number, text or path, with an s where there may be several."""
        if self.option.choices:
            return "choice"
        # The type of an option that may be left away is "X | None".
        kind = get_args(self.type)[0] if isinstance(self.type, types.UnionType) else self.type
        several = get_origin(kind) is tuple
        one: type = get_args(kind)[0] if several else kind
        name = {bool: "switch", int: "integer", float: "number", str: "text", Path: "path"}[one]
        return name + "s" if several else name

    def text(self, value: Any) -> str:
        """Return a value as the documentation and --help show it."""
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple):
            return " ".join(map(self.text, value))
        if self.option.unit == INTENSITY and value:
            return f"{255 * value:g}/255"
        return f"{value:g}" if isinstance(value, int | float) else str(value)


@cache
def described_options(record: type) -> tuple[DescribedOption, ...]:
    """Return the options of a dataclass in their order."""
    hints = get_type_hints(record, include_extras=True)
    described = []
    for item in fields(record):
        kind, option = get_args(hints[item.name])
        if get_origin(kind) is Literal:
            option = replace(option, choices=get_args(kind))
        described.append(DescribedOption(item.name, kind, item.default, option))
    return tuple(described)


def check_options(record: Any) -> None:
    """Check every value of a record of options against its choices and its range.

    Raises:
        OptionError: A value is not allowed.
    """
    kind: type = type(record)
    for item in described_options(kind):
        item.option.check(item.name, getattr(record, item.name))


Variations = Callable[[DescribedOption], Iterable[str]]
"""Returns the texts of an option's other defaults and when they hold, such as "10 for pgd"."""


def no_variations(item: DescribedOption) -> Iterable[str]:
    """Return that an option has one default."""
    return ()


def add_options(parser: argparse.ArgumentParser, record: type, variations: Variations = no_variations) -> None:
    """Add the options of a record to a parser. Those that are not given are absent from what it parses.

    Args:
        parser: The parser.
        record: The dataclass.
        variations: See Variations.
    """
    for item in described_options(record):
        parser.add_argument(
            flag(item.name),
            *item.option.aliases,
            help=_help(item, variations),
            default=argparse.SUPPRESS,
            required=item.option.required,
            **_parsing(item),
        )


def given_options(record: type, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a record that were given on the command line, as its constructor takes them."""
    names = {item.name for item in described_options(record)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in names
    }


@dataclass(frozen=True)
class OptionRow:
    """A row of the documentation's table of options. Every field is text; an empty one does not apply.

    Attributes:
        name: The flag, such as "--lr-decay".
        type: See DescribedOption.kind.
        default: The default, and what a recipe makes of it.
        range: The numbers or the choices that are allowed.
        methods: The training methods that it does anything for. Empty for all of them.
        help: Its effect in words.
        aliases: Other flags that mean the same.
    """

    name: str
    type: str
    default: str
    range: str
    methods: str
    help: str
    aliases: tuple[str, ...] = ()

    @property
    def flags(self) -> str:
        """The flag and its aliases, such as "--epsilon, --eps"."""
        return ", ".join([self.name, *self.aliases])


def option_rows(record: type, variations: Variations = no_variations) -> Iterator[OptionRow]:
    """Yield a row for each option of a record, in the order of --help."""
    for item in described_options(record):
        option = item.option
        yield OptionRow(
            name=flag(item.name),
            type=item.kind,
            default=_default(item, variations),
            range=", ".join(option.choices) if option.choices else option.range,
            methods=", ".join(option.methods),
            help=option.help,
            aliases=option.aliases,
        )


def _parsing(item: DescribedOption) -> dict[str, Any]:
    """Return what argparse needs to know to read the option's value. A text that is called FILE is a path."""
    kind, option = item.kind, item.option
    if option.read is not None:
        return {"type": option.read, "metavar": option.metavar}
    if kind == "choice":
        return {"choices": option.choices}
    if kind == "switch":
        return {"action": argparse.BooleanOptionalAction}
    reader, letter = {"integer": (int, "N"), "number": (number, "X"), "text": (str, ""), "path": (Path, "PATH")}[
        kind.removesuffix("s")
    ]
    if option.writes:
        reader = file_to_write
    if kind == "text" and option.metavar.startswith("FILE"):
        reader = path_text
    parsing: dict[str, Any] = {"type": reader}
    if option.metavar or letter:
        parsing["metavar"] = option.metavar or letter
    if option.alone:
        parsing |= {"nargs": "?", "const": option.alone}
    if kind.endswith("s"):
        parsing["nargs"] = "+" if option.some else "*"
    return parsing


def _help(item: DescribedOption, variations: Variations) -> str:
    """Return the option's line of --help: what it does, its default, its range and its methods."""
    option = item.option
    facts = []
    if default := _default(item, variations):
        facts.append(f"default: {default}")
    if not option.choices and option.range:
        facts.append(option.range)
    if option.methods:
        facts.append(f"for --method {', '.join(option.methods)}")
    text = f"{option.help} ({'; '.join(facts)})" if facts else option.help
    return text.replace("%", "%%")


def _default(item: DescribedOption, variations: Variations) -> str:
    """Return the default as text, with its variations, such as "1; 10 for pgd, trades"."""
    if item.option.default:
        return item.option.default
    if item.default is MISSING or item.default is None:
        return ""
    return "; ".join([item.text(item.default), *variations(item)])
