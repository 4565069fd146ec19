"""Every setting of the service: its environment variable, range, default and meaning, each told once."""

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import AliasGenerator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from sgn_serve.common.command_parser import did_you_mean
from sgn_serve.common.refusals import ServingError
from sgn_serve.pictures.formats import AVAILABLE
from sgn_serve.process.cores import crowded, usable_cores
from sgn_serve.records import MAX_TOP_K
from sgn_serve.setting_types import (
    A_COLOUR,
    AUTO_ENGINE,
    Accepts,
    BlockSwitch,
    Colour,
    Default,
    Engine,
    FilePath,
    Flag,
    Formats,
    Hosts,
    Networks,
    Number,
    Origins,
    Providers,
    RootPath,
    Tokens,
    UnusableError,
    UrlName,
    WholeNumber,
)

PREFIX = "SGN_"
BUNDLED_MODEL = Path(__file__).parent / "bundled" / "model.onnx"

_QUEUE_A_CORE = 16
_SMALLEST_QUEUE = 32
_MAX_MIB = 10
_MAX_MEGAPIXELS = 25
_MOST = 1_000_000
"""Largest value of most numbers. One that no machine can use fails where it is used, which no longer tells its name."""
_SHOWN_CHARACTERS = 200


class SettingsError(ServingError):
    """An environment variable that cannot be used. The message, one line, names it, its value and the fix."""


class SettingRow(NamedTuple):
    """One row of the documentation's table of settings. A secret is set by its variable alone, never by an option."""

    variable: str
    accepts: str
    default: str
    meaning: str
    secret: bool


def _default_queue() -> int:
    """Scale with the cores, so that the longest wait does not depend on the machine."""
    return max(_SMALLEST_QUEUE, _QUEUE_A_CORE * usable_cores())


class Settings(BaseSettings):
    """Hold what the service reads from its environment, once, when it starts.

    `Settings(...)` takes values by field name and reads no environment. So a program or a test that builds its own
    settings does not depend on its shell. `Settings.from_environment` reads the variables.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        case_sensitive=True,
        env_ignore_empty=True,
        enable_decoding=False,  # lists are separated by commas here, not JSON
        hide_input_in_errors=True,  # a token may be among it
        validate_by_name=True,
        validate_by_alias=True,
        alias_generator=AliasGenerator(validation_alias=lambda field: PREFIX + field.upper()),
        protected_namespaces=(),  # "model" is the network here
    )

    model_path: Annotated[FilePath, Default("the bundled model")] = Field(
        BUNDLED_MODEL,
        validation_alias="SGN_MODEL",
        description="exported graph (.onnx) to serve; its measured figures are read from the .json beside it, and its "
        "example pictures from the .examples.json",
    )
    model_name: UrlName = Field(
        "self-gradient-network", description="the model's name in the Open Inference Protocol, /v2"
    )
    self_gradient: BlockSwitch = Field(
        True,
        description="whether the block is on where the request does not say and the graph has one. auto runs the "
        "second pass only for pictures whose plain answer is not clear, if the model has a threshold for that",
    )
    auto_margin: Annotated[Number | None, Default("the model's")] = Field(
        None,
        ge=0,
        le=1,
        description="threshold of auto: the second pass runs where the two largest plain probabilities differ by less",
    )
    top_k: WholeNumber = Field(
        5, ge=1, le=MAX_TOP_K, description="classes that an answer lists where the request does not say"
    )
    max_disagreement: Annotated[Number | None, Default("none: answers carry no verdict")] = Field(
        None,
        ge=0,
        le=1,
        description="disagreement of block on and block off, in bits, above which an answer calls a picture suspicious",
    )
    engine: Engine = Field(
        AUTO_ENGINE,
        description="library that the network runs on. auto takes openvino in bfloat16 where it is installed, the "
        "processor has bfloat16 products, the graph's answers were measured to agree, it takes less time, and "
        "SGN_PROVIDERS is not set; else onnxruntime. openvino is an extra of this package. One that is named and "
        "cannot be used is an error",
    )
    providers: Annotated[Providers, Default("cuda where it works, else cpu")] = Field(
        (), description="ONNX Runtime execution providers by preference. One that cannot be used is an error"
    )
    threads: Annotated[WholeNumber, Default("0: all cores that this process may use")] = Field(
        0, ge=0, le=4096, description="CPU threads of the network, at most eight for each core"
    )
    decoders: WholeNumber = Field(
        2,
        ge=1,
        le=256,
        description="processes that decode pictures, each with 32 MiB of memory for it. A further one, with 192 MiB, "
        "decodes those that take more, or have more than a megapixel, one at a time. There, at most 8 of different "
        "requests are decoded or wait; more are refused",
    )
    max_batch: WholeNumber = Field(
        32, ge=1, le=_MOST, description="pictures that go through the network together, at most"
    )
    batch_ms: Number = Field(
        100.0, ge=1, le=60_000, description="time that one batch may take, in ms; the size of batches adapts to it"
    )
    max_wait_ms: Number = Field(
        4.0, ge=0, le=1000, description="time that an idle network waits for more pictures, at most, in ms"
    )
    max_queue: Annotated[WholeNumber, Default(f"{_QUEUE_A_CORE} a core, and {_SMALLEST_QUEUE} at least")] = Field(
        default_factory=_default_queue,
        ge=1,
        le=_MOST,
        description="pictures accepted and not yet answered; more are refused at once",
    )
    max_images: WholeNumber = Field(
        16, ge=1, le=_MOST, description="pictures in one request, no more than SGN_MAX_QUEUE"
    )
    max_bytes: Annotated[WholeNumber, Default(f"{_MAX_MIB} MiB")] = Field(
        _MAX_MIB << 20, ge=1, le=1 << 30, description="largest request body, in bytes"
    )
    max_pixels: Annotated[WholeNumber, Default(f"{_MAX_MEGAPIXELS} million")] = Field(
        _MAX_MEGAPIXELS * 1_000_000,
        ge=1,
        le=10**12,
        description="largest picture, width times height, checked before it is decoded. A format whose decoder takes "
        "more than 192 MiB for so many, such as WebP, reaches that limit of memory earlier",
    )
    decode_seconds: Number = Field(
        3.5,
        ge=0.01,
        le=600,
        description="time in which all pictures of a request must be decoded, in seconds. Those that are not are "
        "refused, and their decoder is ended",
    )
    receive_seconds: Number = Field(
        30.0,
        ge=0.1,
        le=50,
        description="time that a request's head, and then its body, may take to arrive, and that a client may stop "
        "reading its answer, in seconds",
    )
    formats: Annotated[Formats, Default("all that this installation reads")] = Field(
        AVAILABLE,
        description="formats of pictures that are taken, by Pillow's names. HEIF, which includes HEIC, is an extra of "
        "this package. One that this installation cannot read is an error",
    )
    background: Annotated[Colour | None, A_COLOUR, Default("the network's, which is #ffffff where it names none")] = (
        Field(
            None,
            description="colour behind the transparent parts of a picture, and around one that is padded. A network "
            "that pads has learned its own",
        )
    )
    api_tokens: Annotated[Tokens, Default("none: everybody may ask")] = Field(
        (),
        validation_alias="SGN_API_TOKEN",
        repr=False,
        description="bearer tokens, any of which is accepted. Every request needs one, except the probes and the page",
    )
    rate_limit: Annotated[Number, Default("0: any number")] = Field(
        0.0,
        ge=0,
        le=1_000_000,
        description="requests a second that one client may make; each worker counts for itself",
    )
    rate_burst: WholeNumber = Field(
        20, ge=1, le=_MOST, description="requests that one client may make at once before SGN_RATE_LIMIT counts"
    )
    trusted_proxies: Annotated[Networks, Default("none")] = Field(
        (),
        description="addresses and networks of proxies whose X-Forwarded-For says who the client is, and "
        "whose X-Forwarded-Prefix says under which path they serve",
    )
    root_path: Annotated[RootPath, Default("none")] = Field(
        "", description="path that a proxy serves under, whether it takes it off or not; links begin with it"
    )
    cors_origins: Annotated[Origins, Default("none")] = Field(
        (), description="other web sites whose pages may call the service"
    )
    allowed_hosts: Annotated[Hosts, Default("none")] = Field(
        (),
        description="host names under which browsers may ask a service without a token, besides addresses, localhost, "
        "the machine's name, and any name through one of SGN_TRUSTED_PROXIES",
    )
    max_connections: WholeNumber = Field(
        400,
        ge=1,
        le=_MOST,
        description="connections open at the same time; more are refused. Each may take some 60 KB of memory. A "
        "process that may have too few files open (ulimit -n) takes fewer, and says so at the start",
    )
    drain_seconds: Number = Field(
        1.0, ge=0, le=600, description="time that connections are kept after SIGTERM, in seconds"
    )
    trial_seconds: Number = Field(
        30.0,
        ge=0.1,
        le=600,
        description="time that a model may take to load and to answer its first pictures, in seconds. It is tried in a "
        "process of its own at the start and at a reload, and refused where it takes longer",
    )
    trial_mb: WholeNumber = Field(
        4000,
        ge=100,
        le=10_000_000,
        description="memory that the process which tries a model may take, in MB, itself included",
    )
    access_log: Flag = Field(True, description="whether every request is a line of the log, successful probes excepted")

    @property
    def trial_bytes(self) -> int:
        """SGN_TRIAL_MB in bytes."""
        return self.trial_mb * 1_000_000

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.max_images > self.max_queue:
            raise ValueError(
                f"SGN_MAX_IMAGES={self.max_images} is more than SGN_MAX_QUEUE={self.max_queue}: a full request "
                "would never be accepted; raise SGN_MAX_QUEUE"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the constructor alone; see from_environment."""
        return (init_settings,)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Return the settings that the SGN_* variables name. An empty variable counts as not set.

        Raises:
            SettingsError: A value is not accepted, two values exclude each other, or an SGN_ variable does not exist.
        """
        source = _Environment(cls, environment)
        by_variable = {_variable(field): field for field in cls.model_fields.values()}
        for variable in source.env_vars:
            if variable not in by_variable:
                meant = did_you_mean(variable, by_variable, PREFIX)
                raise SettingsError(f"{variable} is not a setting; {meant}the settings are: {', '.join(by_variable)}")
        try:
            return cls(**source())
        except ValidationError as errors:
            error = errors.errors()[0]
        if not error["loc"]:
            raise SettingsError(str(error["ctx"]["error"]))
        variable = str(error["loc"][0])
        field = by_variable[variable]
        value = environment[variable]
        value = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}..."
        shown = f"{variable}={value!r}" if field.repr else variable  # a secret is not told
        reason = error.get("ctx", {}).get("error")
        if isinstance(reason, UnusableError):
            raise SettingsError(f"{shown} cannot be used: {reason}")
        raise SettingsError(f"{shown} cannot be used: expected {_accepts(field)}")


class _Environment(EnvSettingsSource):
    """Read the variables of a given environment instead of the process's."""

    def __init__(self, settings: type[BaseSettings], environment: Mapping[str, str]):
        super().__init__(settings)
        self.env_vars = {name: text for name, text in environment.items() if name.startswith(PREFIX) and text}


def settings_table() -> list[SettingRow]:
    """Return every setting, in the order of Settings: the documentation's table is generated from it."""
    rows = []
    for field in Settings.model_fields.values():
        default = next((item.text for item in field.metadata if isinstance(item, Default)), str(field.default))
        if isinstance(field.default, bool):
            default = str(field.default).lower()
        elif isinstance(field.default, float) and default == str(field.default):
            default = f"{field.default:g}"
        assert field.description, "every setting says what it means"
        rows.append(SettingRow(_variable(field), _accepts(field), default, field.description, not field.repr))
    return rows


def flag_of(row: SettingRow) -> str:
    """Return the option that sets a setting, such as --max-batch for SGN_MAX_BATCH."""
    return "--" + row.variable.removeprefix(PREFIX).lower().replace("_", "-")


def with_flags(message: str, given: Iterable[str]) -> str:
    """Return a message with the options in place of the settings that were given as such."""
    flags = {row.variable: flag_of(row) for row in settings_table()}
    for variable in given:
        message = message.replace(f"{variable}=", f"{flags[variable]}=")
    return message


def check_threads(settings: Settings) -> None:
    """Refuse more threads than the cores can run. Call it where the network runs, which may be a machine of Ray's.

    Raises:
        SettingsError: There are too many.
    """
    if why := crowded(settings.threads):
        raise SettingsError(f"SGN_THREADS={settings.threads} cannot be used: {why}, or 0 for all cores")


@cache
def current_settings() -> Settings:
    """Return this process's settings, read from its environment at the first call.

    Raises:
        SettingsError: See Settings.from_environment.
    """
    return Settings.from_environment(os.environ)


def _variable(field: FieldInfo) -> str:
    return str(field.validation_alias)


def _accepts(field: FieldInfo) -> str:
    """Return which texts a setting takes, as the object of "expected ..."."""
    for item in field.metadata:
        if isinstance(item, Accepts):
            return item.text
    least, most = (
        next((getattr(item, bound) for item in field.metadata if hasattr(item, bound)), None) for bound in ("ge", "le")
    )
    kind = "a whole number" if field.annotation is int else "a number"
    return f"{kind} from {least:.10g} to {most:.10g}"
