"""Every setting of the service, its environment variable, its default, and what it accepts."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

BUNDLED_MODEL = Path(__file__).parent / "bundled" / "model.onnx"


class SettingsError(ValueError):
    """An environment variable that cannot be used; the message, one line, names it and the fix."""


def parse_flag(text: str) -> bool:
    """raises ValueError for anything but true/false, on/off, yes/no, 1/0 in any case"""
    value = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
    try:
        return value[text.strip().lower()]
    except KeyError:
        raise ValueError("expected true or false") from None


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise ValueError(f"expected a whole number, {minimum} or more")
        return number

    return parse


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ValueError("expected provider names separated by commas, such as cuda,cpu")
    return names


def _from(variable: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    return {"variable": variable, "parse": parse}


@dataclass(frozen=True)
class Settings:
    """What the service reads from its environment, once, when it starts.

    model_path     SGN_MODEL          the exported graph (.onnx) to serve; default: the bundled one
    self_gradient  SGN_SELF_GRADIENT  whether the block is on for a request that does not say; default true
    providers      SGN_PROVIDERS      ONNX Runtime execution providers by preference, such as cuda,cpu; one that
                                      cannot be used is an error. Default: cuda where it works, else cpu
    threads        SGN_THREADS        CPU threads of one inference; 0, the default: all cores this process may use
    max_bytes      SGN_MAX_BYTES      largest request body, in bytes; default 10 MiB
    max_pixels     SGN_MAX_PIXELS     largest picture, width times height, checked before it is decoded;
                                      default 25 million. Decoding takes up to 16 bytes of memory a pixel
    top_k          SGN_TOP_K          how many classes an answer lists; default 5
    """

    model_path: Path = field(default=BUNDLED_MODEL, metadata=_from("SGN_MODEL", Path))
    self_gradient: bool = field(default=True, metadata=_from("SGN_SELF_GRADIENT", parse_flag))
    providers: tuple[str, ...] = field(default=(), metadata=_from("SGN_PROVIDERS", _names))
    threads: int = field(default=0, metadata=_from("SGN_THREADS", _at_least(0)))
    max_bytes: int = field(default=10 * 1024 * 1024, metadata=_from("SGN_MAX_BYTES", _at_least(1)))
    max_pixels: int = field(default=25_000_000, metadata=_from("SGN_MAX_PIXELS", _at_least(1)))
    top_k: int = field(default=5, metadata=_from("SGN_TOP_K", _at_least(1)))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Settings from the SGN_* variables; an empty one counts as not set.

        raises SettingsError for a value that is not accepted, and for an SGN_ variable that does not exist
        """
        by_variable = {item.metadata["variable"]: item for item in fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith("SGN_") or not text:
                continue
            if variable not in by_variable:
                raise SettingsError(f"{variable} is not a setting; the settings are: {', '.join(by_variable)}")
            item = by_variable[variable]
            try:
                values[item.name] = item.metadata["parse"](text)
            except ValueError as error:
                raise SettingsError(f"{variable}={text!r} cannot be used: {error}") from None
        return cls(**values)


@cache
def current_settings() -> Settings:
    """This process's settings, read from its environment at the first call.

    raises SettingsError as from_environment does
    """
    return Settings.from_environment(os.environ)
