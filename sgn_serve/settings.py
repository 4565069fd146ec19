"""Every setting of the service, its environment variable, its default, and what it accepts."""

import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from sgn_serve.inference.engines import ENGINES, ONNX_RUNTIME
from sgn_serve.process.cores import usable_cores

BUNDLED_MODEL = Path(__file__).parent / "bundled" / "model.onnx"


class SettingsError(ValueError):
    """An environment variable that cannot be used; the message, one line, names it and the fix."""


FLAGS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


def parse_flag(text: str) -> bool:
    """raises ValueError for anything but true/false, on/off, yes/no, 1/0 in any case"""
    try:
        return FLAGS[text.strip().lower()]
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


def _within(minimum: float, maximum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not minimum <= number <= maximum:  # as is not-a-number
            raise ValueError(f"expected a number from {minimum:g} to {maximum:g}")
        return number

    return parse


def _colour(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError("expected a colour such as #ffffff: two hexadecimal digits each of red, green and blue")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", text):
        raise ValueError("expected up to 64 letters, digits, dots, dashes and underscores, for it is part of a URL")
    return text


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ValueError("expected provider names separated by commas, such as cuda,cpu")
    return names


def _tokens(text: str) -> tuple[str, ...]:
    tokens = tuple(text.replace(",", " ").split())
    if any(not re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,256}", token) for token in tokens):
        raise ValueError(
            "expected one or several tokens of 16 to 256 letters, digits and -._~+/= separated by commas; make one "
            "with: openssl rand -hex 32"
        )
    return tokens


def _proxies(text: str) -> tuple[str, ...]:
    proxies = tuple(text.replace(",", " ").split())
    try:
        for proxy in proxies:
            ipaddress.ip_network(proxy)
    except ValueError:
        raise ValueError("expected addresses or networks separated by commas, such as 127.0.0.1,10.0.0.0/8") from None
    return proxies


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(text.replace(",", " ").split())
    if any(not re.fullmatch(r"\*|https?://[A-Za-z0-9.:\[\]-]+", origin) for origin in origins):
        raise ValueError("expected origins separated by commas, such as https://example.org, or * for all")
    return origins


def _engine(text: str) -> str:
    if text not in ENGINES:
        raise ValueError(f"expected {' or '.join(ENGINES)}")
    return text


def _default_queue() -> int:
    """As many pictures as a core gets through in about the same time whatever the number of cores: all of them wait."""
    return max(32, 16 * usable_cores())


def _from(variable: str, parse: Callable[[str], Any], secret: bool = False) -> dict[str, Any]:
    return {"variable": variable, "parse": parse, "secret": secret}


@dataclass(frozen=True)
class Settings:
    """What the service reads from its environment, once, when it starts.

    model_path        SGN_MODEL            the exported graph (.onnx) to serve; default: the bundled one
    model_name        SGN_MODEL_NAME       its name in the Open Inference Protocol; default self-gradient-network
    self_gradient     SGN_SELF_GRADIENT    whether the block is on for a request that does not say; default true
    top_k             SGN_TOP_K            how many classes an answer lists where the request does not say; default 5
    max_disagreement  SGN_MAX_DISAGREEMENT with it, answers tell whether a picture is suspicious: whether the block on
                                           and off disagree by more than so many bits, 0 to 1; default: they do not
    engine            SGN_ENGINE           what the network runs on: onnxruntime, the default, or openvino, which is an
                                           extra; one that cannot be used is an error
    providers         SGN_PROVIDERS        ONNX Runtime execution providers by preference, such as cuda,cpu; one that
                                           cannot be used is an error. Default: cuda where it works, else cpu
    threads           SGN_THREADS          CPU threads of the network; 0, the default: all cores this process may use
    decode_threads    SGN_DECODE_THREADS   threads that decode pictures; default 2. Pictures over a megapixel take turns
                                           in one more
    max_batch         SGN_MAX_BATCH        pictures that go through the network together, at most; default 32
    batch_ms          SGN_BATCH_MS         how long one batch may take, in ms; its size adapts; default 100
    max_wait_ms       SGN_MAX_WAIT_MS      how long an idle network waits for company, at most, in ms; default 4
    max_queue         SGN_MAX_QUEUE        pictures accepted and not yet answered; more are refused at once; default 16
                                           a core, and 32 at least
    max_images        SGN_MAX_IMAGES       pictures in one request; default 16, and no more than SGN_MAX_QUEUE
    max_bytes         SGN_MAX_BYTES        largest request body, in bytes; default 10 MiB
    max_pixels        SGN_MAX_PIXELS       largest picture, width times height, and sum of a TIFF's tiles, checked
                                           before it is decoded; default 25 million. Of those whose decoders take more
                                           memory less: of WebP half, of a progressive JPEG in CMYK or with its colours
                                           in full size (4:4:4) two thirds
    decode_seconds    SGN_DECODE_SECONDS   how long reading a picture's header, and then its pixels, may take, in
                                           seconds; default 5. A WebP or compressed TIFF, once begun, is decoded to its
                                           end: those are bounded by their size
    receive_seconds   SGN_RECEIVE_SECONDS  how long a request's head, and then its body, may take to arrive, and its
                                           answer to be read on, in seconds; default 30
    background        SGN_BACKGROUND       what transparent pictures lie on; default #ffffff, white
    api_tokens        SGN_API_TOKEN        bearer tokens, any of which is wanted of every request but probes and the
                                           page; default: none, everybody may ask
    rate_limit        SGN_RATE_LIMIT       requests a second that one client may make; default 0, any number
    rate_burst        SGN_RATE_BURST       requests that it may make at once before that counts; default 20
    trusted_proxies   SGN_TRUSTED_PROXIES  proxies whose X-Forwarded-For is believed; default: nobody's
    cors_origins      SGN_CORS_ORIGINS     other sites whose pages may ask; default: none
    max_connections   SGN_MAX_CONNECTIONS  connections open at the same time; default 400
    drain_seconds     SGN_DRAIN_SECONDS    how long connections are kept after SIGTERM, in seconds; default 1
    access_log        SGN_ACCESS_LOG       whether every request is logged; default true
    """

    model_path: Path = field(default=BUNDLED_MODEL, metadata=_from("SGN_MODEL", Path))
    model_name: str = field(default="self-gradient-network", metadata=_from("SGN_MODEL_NAME", _name))
    self_gradient: bool = field(default=True, metadata=_from("SGN_SELF_GRADIENT", parse_flag))
    top_k: int = field(default=5, metadata=_from("SGN_TOP_K", _at_least(1)))
    max_disagreement: float | None = field(default=None, metadata=_from("SGN_MAX_DISAGREEMENT", _within(0, 1)))
    engine: str = field(default=ONNX_RUNTIME, metadata=_from("SGN_ENGINE", _engine))
    providers: tuple[str, ...] = field(default=(), metadata=_from("SGN_PROVIDERS", _names))
    threads: int = field(default=0, metadata=_from("SGN_THREADS", _at_least(0)))
    decode_threads: int = field(default=2, metadata=_from("SGN_DECODE_THREADS", _at_least(1)))
    max_batch: int = field(default=32, metadata=_from("SGN_MAX_BATCH", _at_least(1)))
    batch_ms: float = field(default=100.0, metadata=_from("SGN_BATCH_MS", _within(1, 60_000)))
    max_wait_ms: float = field(default=4.0, metadata=_from("SGN_MAX_WAIT_MS", _within(0, 1000)))
    max_queue: int = field(default_factory=_default_queue, metadata=_from("SGN_MAX_QUEUE", _at_least(1)))
    max_images: int = field(default=16, metadata=_from("SGN_MAX_IMAGES", _at_least(1)))
    max_bytes: int = field(default=10 * 1024 * 1024, metadata=_from("SGN_MAX_BYTES", _at_least(1)))
    max_pixels: int = field(default=25_000_000, metadata=_from("SGN_MAX_PIXELS", _at_least(1)))
    decode_seconds: float = field(default=5.0, metadata=_from("SGN_DECODE_SECONDS", _within(0.01, 600)))
    receive_seconds: float = field(default=30.0, metadata=_from("SGN_RECEIVE_SECONDS", _within(0.1, 50)))
    background: tuple[int, int, int] = field(default=(255, 255, 255), metadata=_from("SGN_BACKGROUND", _colour))
    api_tokens: tuple[str, ...] = field(default=(), repr=False, metadata=_from("SGN_API_TOKEN", _tokens, secret=True))
    rate_limit: float = field(default=0.0, metadata=_from("SGN_RATE_LIMIT", _within(0, 1_000_000)))
    rate_burst: int = field(default=20, metadata=_from("SGN_RATE_BURST", _at_least(1)))
    trusted_proxies: tuple[str, ...] = field(default=(), metadata=_from("SGN_TRUSTED_PROXIES", _proxies))
    cors_origins: tuple[str, ...] = field(default=(), metadata=_from("SGN_CORS_ORIGINS", _origins))
    max_connections: int = field(default=400, metadata=_from("SGN_MAX_CONNECTIONS", _at_least(1)))
    drain_seconds: float = field(default=1.0, metadata=_from("SGN_DRAIN_SECONDS", _within(0, 600)))
    access_log: bool = field(default=True, metadata=_from("SGN_ACCESS_LOG", parse_flag))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Settings from the SGN_* variables; an empty one counts as not set.

        raises SettingsError for a value that is not accepted, for values that exclude each other, and for an SGN_
        variable that does not exist
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
                shown = variable if item.metadata["secret"] else f"{variable}={text!r}"
                raise SettingsError(f"{shown} cannot be used: {error}") from None
        settings = cls(**values)
        if settings.max_images > settings.max_queue:
            raise SettingsError(
                f"SGN_MAX_IMAGES={settings.max_images} is more than SGN_MAX_QUEUE={settings.max_queue}: a full request "
                "would never be accepted; raise SGN_MAX_QUEUE"
            )
        return settings


@cache
def current_settings() -> Settings:
    """This process's settings, read from its environment at the first call.

    raises SettingsError as from_environment does
    """
    return Settings.from_environment(os.environ)
