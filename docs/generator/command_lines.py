"""Describe command lines from their argparse parsers."""

import argparse
from collections.abc import Collection

from docs.generator.markdown import cell, words_table


def describe(parser: argparse.ArgumentParser, elsewhere: Collection[str] = ()) -> str:
    """Return the description, the options and the epilog of a parser, in Markdown.

    Args:
        parser: the parser of the command
        elsewhere: options that another table describes
    """
    rows = [
        (_names(action), cell(_help(action)), _default(action))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
        and action.help is not argparse.SUPPRESS
        and not set(action.option_strings) & set(elsewhere)
    ]
    parts = [cell(parser.description or "")]
    if rows:
        parts.append(words_table(("option", "meaning", "default"), rows))
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog.strip()}\n```")
    return "\n\n".join(parts)


def _names(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        value = ""
    elif action.choices is not None:
        value = " " + "\\|".join(str(choice) for choice in action.choices)
    else:
        name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        value = f" {name} ..." if action.nargs in ("*", "+") else f" {name}"
    if not action.option_strings:
        return f"`{value.strip()}`"
    names = ", ".join(action.option_strings)
    return f"`{names}{value}`"


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    return text + (" (required)" if action.required else "")


def _default(action: argparse.Action) -> str:
    default = action.default
    if default is None or default is argparse.SUPPRESS or default in ("", []) or action.required:
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, float):
        return f"`{intensity(default)}`"
    if isinstance(default, list | tuple):
        return "`" + " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in default) + "`"
    return f"`{default}`"


def intensity(value: float) -> str:
    """Return a number as people write it: n/255 where it is a whole number of grey levels."""
    levels = value * 255
    if 0 < value < 1 and levels > 0.5 and abs(levels - round(levels)) < 1e-9:
        return f"{round(levels)}/255"
    return f"{value:g}"
