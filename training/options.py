"""The command line of `python -m training`, made from what TrainConfig says of its options."""

import argparse
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import torch

from training.common.command_line import INTENSITY, flag, number
from training.config import METHODS, DescribedOption, TrainConfig, check_given, described_options, recipe_defaults
from training.data.loading import DATASETS
from training.networks.activations import with_activation
from training.networks.backbones import build_backbone


def hardware_precision(device: torch.device) -> str:
    """Return "bf16" where the device computes in it, "float32" where it would be emulated and slower."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    # PyTorch has no public name for this; without the function, float32 is right everywhere, only slower.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if supported() else "float32"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options of TrainConfig that are not given are absent from what it parses."""
    parser = argparse.ArgumentParser(
        "python -m training",
        description="Trains a self-gradient network or a baseline. The defaults are the paper's recipe for WRN-28-10.",
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--run",
        # torchrun takes a --run anywhere on its command line for its own --run-path.
        "--run-name",
        help="name of the run: results go to runs/<name> (default: <arch>-<method>-<dataset>); "
        "under torchrun write --run-name",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run after its last complete epoch"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ...; under torchrun cuda is each process's own GPU",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads (default: all cores); figures depend on it in the last bits"
    )
    for item in described_options():
        parser.add_argument(
            flag(item.name),
            help=_help(item),
            default=argparse.SUPPRESS,
            required=item.option.required,
            **_parsing(item),
        )
    return parser


def configure(arguments: argparse.Namespace, device: torch.device) -> TrainConfig:
    """Return the configuration: the options that were given, over the recipe's defaults.

    Args:
        arguments: The namespace that build_parser's parser returned.
        device: Where training will run, which decides the default precision.

    Raises:
        OptionError: An option is out of range, or does not go with another one.
        ArchitectureError: The backbone is unknown, or cannot have this activation or take such pictures.
    """
    names = {item.name for item in described_options()}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    if "lr_milestones" in given:
        given["lr_milestones"] = tuple(given["lr_milestones"])
    method = given.get("method", "self-gradient")
    defaults = recipe_defaults(given["dataset"], method) | {"precision": hardware_precision(device)}
    config = TrainConfig(**(defaults | given))
    check_given(config, given)
    image_size = (config.image_size, config.image_size) if config.image_size is not None else None
    with_activation(build_backbone(config.arch, 2, image_size), config.activation)
    return config


@dataclass(frozen=True)
class OptionRow:
    """A row of the documentation's table of training options. Every field is text; an empty one does not apply.

    Attributes:
        name: The flag, such as "--lr-decay".
        type: "number", "integer", "integers", "text", "switch" or "choice".
        default: The default, and what the paper's recipe makes of it for some data sets and methods.
        range: The numbers or the choices that are allowed.
        methods: The training methods that it does anything for. Empty for all of them.
        help: Its effect in words.
    """

    name: str
    type: str
    default: str
    range: str
    methods: str
    help: str


def option_rows() -> Iterator[OptionRow]:
    """Yield a row for each option of TrainConfig, in the order of --help."""
    for item in described_options():
        option = item.option
        yield OptionRow(
            name=flag(item.name),
            type=_kind(item),
            default=_default(item),
            range=", ".join(option.choices) if option.choices else option.range,
            methods=", ".join(option.methods),
            help=option.help,
        )


def _kind(item: DescribedOption) -> str:
    if item.option.choices:
        return "choice"
    if get_origin(item.type) is tuple:
        return "integers"
    # The type of an option that may be left away is "X | None".
    kind: type = get_args(item.type)[0] if isinstance(item.type, types.UnionType) else item.type
    return {bool: "switch", int: "integer", float: "number", str: "text"}[kind]


def _parsing(item: DescribedOption) -> dict[str, Any]:
    """Return what argparse needs to know to read the option's value."""
    match _kind(item):
        case "choice":
            return {"choices": item.option.choices}
        case "switch":
            return {"action": argparse.BooleanOptionalAction}
        case "integers":
            return {"type": int, "nargs": "*", "metavar": "N"}
        case "integer":
            return {"type": int, "metavar": "N"}
        case "number":
            return {"type": number, "metavar": "X"}
    return {"type": str}


def _help(item: DescribedOption) -> str:
    """Return the option's line of --help: what it does, its default, its range and its methods."""
    option = item.option
    facts = []
    if default := _default(item):
        facts.append(f"default: {default}")
    if not option.choices and option.range:
        facts.append(option.range)
    if option.methods:
        facts.append(f"for --method {', '.join(option.methods)}")
    text = f"{option.help} ({'; '.join(facts)})" if facts else option.help
    return text.replace("%", "%%")


def _default(item: DescribedOption) -> str:
    """Return the default as text, with the recipe's variations, such as "1; 10 for pgd, trades"."""
    if item.option.default:
        return item.option.default
    if item.default is MISSING:
        return ""
    return "; ".join([_text(item, item.default), *_variations(item)])


def _variations(item: DescribedOption) -> Iterator[str]:
    """Yield the values that recipe_defaults gives an option for some data sets and methods, and for which ones."""
    methods = item.option.methods or METHODS
    where: dict[Any, list[tuple[str, str]]] = {}
    for dataset in DATASETS:
        for method in methods:
            value = recipe_defaults(dataset, method).get(item.name, item.default)
            if value != item.default:
                where.setdefault(value, []).append((dataset, method))
    for value, cases in where.items():
        datasets = [dataset for dataset in DATASETS if any(case[0] == dataset for case in cases)]
        some = [method for method in methods if any(case[1] == method for case in cases)]
        parts = [*([", ".join(some)] if len(some) < len(methods) else [])]
        parts += [", ".join(datasets)] if len(datasets) < len(DATASETS) else []
        yield f"{_text(item, value)} for {' on '.join(parts)}"


def _text(item: DescribedOption, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if item.option.unit == INTENSITY and value:
        return f"{255 * value:g}/255"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
