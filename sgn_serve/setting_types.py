"""Types of the settings: each with the texts that it takes, as the error message and the documentation have them."""

import ipaddress
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from sgn_serve.pictures.colours import parse_colour
from sgn_serve.pictures.formats import KNOWN, lacking
from sgn_serve.records import AUTO, SelfGradient

ONNX_RUNTIME = "onnxruntime"
OPENVINO = "openvino"
AUTO_ENGINE = "auto"
"""The value by which the service chooses one of the two."""
ENGINES = (AUTO_ENGINE, ONNX_RUNTIME, OPENVINO)

FLAGS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}

_IN_NO_PATH = {"Cc": "control character", "Zl": "line separator", "Zp": "paragraph separator"}
"""Categories of Unicode whose characters would divide a line of the log, or control a terminal."""


@dataclass(frozen=True)
class Accepts:
    """Describe which texts a type of setting takes, as the object of "expected ..."."""

    text: str


@dataclass(frozen=True)
class Default:
    """Describe a default that has no short text of its own."""

    text: str


class UnusableError(ValueError):
    """A value that cannot be used, for a reason that the texts which are taken do not tell. The message says it."""


def parse_flag(text: str) -> bool:
    """Return whether a text says true.

    Raises:
        ValueError: The text is none of true/false, on/off, yes/no, 1/0 in any case.
    """
    try:
        return FLAGS[text.strip().lower()]
    except KeyError:
        raise ValueError("expected true or false") from None


def parse_self_gradient(text: str) -> SelfGradient:
    """Return whether a text switches the block on or off, or leaves it to the picture.

    Raises:
        ValueError: The text is none of parse_flag's, and not auto in any case.
    """
    if text.strip().lower() == AUTO:
        return AUTO
    try:
        return parse_flag(text)
    except ValueError:
        raise ValueError("expected true, false or auto") from None


def _self_gradient(value: Any) -> Any:
    return parse_self_gradient(value) if isinstance(value, str) else value


def _flag(value: Any) -> Any:
    return parse_flag(value) if isinstance(value, str) else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, str) else value  # pydantic would take "5.0" too


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _colour(value: Any) -> Any:
    return parse_colour(value) if isinstance(value, str) else value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("no name")
    return value


def _engine(value: str) -> str:
    if value not in ENGINES:
        raise ValueError("no engine")
    return value


def _providers(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names or any(not re.fullmatch(r"[A-Za-z0-9_]{1,64}", name) for name in names):
        raise ValueError("no names")
    return names


def _words(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    words = tuple(value.replace(",", " ").split())
    if value and not words:  # such as a file with a secret that holds an end of line only
        raise ValueError("no words")
    return words


def _tokens(tokens: tuple[str, ...]) -> tuple[str, ...]:
    if any(not re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,256}", token) for token in tokens):
        raise ValueError("no token")
    return tokens


def _networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        ipaddress.ip_network(network)
    return networks


def _origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    if any(not re.fullmatch(r"\*|https?://[A-Za-z0-9.:\[\]-]+", origin) for origin in origins):
        raise ValueError("no origin")
    return origins


def _hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    if any(not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", host) for host in hosts):
        raise ValueError("no host")
    return hosts


def parse_prefix(path: str) -> str:
    """Return the prefix of paths that a text names, without a slash at its end.

    In links, nothing in it means anything else, and nothing leads upwards.

    Raises:
        ValueError: The text is neither empty nor such a prefix.
    """
    if not re.fullmatch(r"((/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]{1,64}){1,8})?/?", path):
        raise ValueError("no path")
    return path.rstrip("/")


def _file_path(path: Path) -> Path:
    str(path).encode()  # raises a ValueError for what is no UTF-8
    for character in str(path):
        kind = _IN_NO_PATH.get(unicodedata.category(character))
        if kind is not None:
            raise UnusableError(f"the path has U+{ord(character):04X}, a {kind}")
    longest = max(len(os.fsencode(part)) for part in (*path.parts, ""))
    if longest > 255 or len(os.fsencode(path)) > 4095:
        raise ValueError("no path that a system takes")
    return path


def _upper_words(value: Any) -> Any:
    return _words(value.upper()) if isinstance(value, str) else value


def _formats(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or not {*names} <= {*KNOWN}:
        raise ValueError("no format")
    for name in names:
        reason = lacking(name)
        if reason is not None:
            raise UnusableError(f"{name} cannot be read here: {reason}")
    return tuple(name for name in KNOWN if name in names)  # they are tried in this order


FilePath = Annotated[Path, AfterValidator(_file_path), Accepts("the path of a file")]
Flag = Annotated[bool, BeforeValidator(_flag), Accepts("true or false")]
BlockSwitch = Annotated[SelfGradient, BeforeValidator(_self_gradient), Accepts("true, false or auto")]
WholeNumber = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Colour = Annotated[tuple[int, int, int], BeforeValidator(_colour)]
A_COLOUR = Accepts("a colour such as #ffffff: two hexadecimal digits each of red, green and blue")
UrlName = Annotated[
    str,
    AfterValidator(_name),
    Accepts("up to 64 letters, digits, dots, dashes and underscores, for it is part of a URL"),
]
Engine = Annotated[str, AfterValidator(_engine), Accepts(", ".join(ENGINES[:-1]) + f" or {ENGINES[-1]}")]
Providers = Annotated[
    tuple[str, ...],
    BeforeValidator(_providers),
    Accepts("provider names separated by commas, such as cuda,cpu"),
]
Tokens = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    AfterValidator(_tokens),
    Accepts(
        "one or several tokens of 16 to 256 letters, digits and -._~+/= separated by commas; make one with: "
        "openssl rand -hex 32"
    ),
]
Networks = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    AfterValidator(_networks),
    Accepts("addresses or networks separated by commas, such as 127.0.0.1,10.0.0.0/8"),
]
RootPath = Annotated[
    str,
    AfterValidator(parse_prefix),
    Accepts("a path of letters, digits and ._~- such as /classifier"),
]
Hosts = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    AfterValidator(_hosts),
    Accepts("host names separated by commas, such as example.org or *.example.org, or * for all"),
]
Formats = Annotated[
    tuple[str, ...],
    BeforeValidator(_upper_words),
    AfterValidator(_formats),
    Accepts(f"formats separated by commas, of {', '.join(KNOWN)}"),
]
Origins = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    AfterValidator(_origins),
    Accepts("origins separated by commas, such as https://example.org, or * for all"),
]
