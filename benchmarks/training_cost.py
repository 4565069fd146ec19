"""Measure what a training step of each method costs: steps of all methods in turn, on one backbone, in one run.

    python -m benchmarks.training_cost --arch wrn-28-10

Writes results/training_cost.json. It holds milliseconds and images/s of each method's step, and the ratio of the
one-step self-gradient step to PGD-10's. The ratio is taken within each round, where both meet the same disturbances.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, thread_count, write_result
from benchmarks.provenance import commit
from benchmarks.untrained import untrained_network
from sgn_serve.common import markdown
from sgn_serve.common.error_text import say
from training.checkpoint import BlockConfig
from training.common.devices import device_name
from training.common.provenance import current_versions
from training.config import TrainConfig
from training.hardware import hardware_precision
from training.methods import build_method
from training.options import recipe_defaults

RESULT = ROOT / "results" / "training_cost.json"
REFERENCE = "PGD-10"
ONE_STEP = "self-gradient, one step"
METHODS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    "adversarial, one step": {"method": "pgd", "attack_steps": 1, "attack_step_size": 10 / 255},
    ONE_STEP: {"method": "self-gradient"},
    "TRADES, 10 steps": {"method": "trades"},
    REFERENCE: {"method": "pgd"},
}
"""The options of each method that differ from the recipe's defaults, by the method's name in the result."""


@dataclass(frozen=True)
class Setting:
    """A setting to time training steps in. The fields are as in TrainConfig."""

    arch: str
    image_size: int
    batch_size: int
    precision: str
    device: torch.device


def training_step(setting: Setting, options: dict[str, Any]) -> Callable[[], None]:
    """Return a function that does one whole training step on a fixed random batch: attack, loss, gradients, optimiser.

    Args:
        setting: The network, the batch and the device that are timed.
        options: The method's options, an item of METHODS.
    """
    method = options["method"]
    config = TrainConfig(
        **({"dataset": "cifar10", "arch": setting.arch} | recipe_defaults("cifar10", method) | options)
    )
    block = BlockConfig(config.block_layers, config.block_scale, config.gradient_scaling)
    model, _ = untrained_network(setting.arch, setting.image_size, block if method == "self-gradient" else None)
    model = model.to(setting.device).to(memory_format=torch.channels_last).train()
    # A step of no size: the network that is timed stays the same, so that no loss becomes infinite.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=config.momentum, nesterov=True)
    shape = (setting.batch_size, 3, setting.image_size, setting.image_size)
    images = torch.rand(shape, device=setting.device).contiguous(memory_format=torch.channels_last)
    labels: Tensor = torch.randint(10, (setting.batch_size,), device=setting.device)
    trained = build_method(config)

    def step() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.precision == "bf16"):
            outcome = trained.loss(model, trained.attack(model, images, labels))
        optimizer.zero_grad(set_to_none=True)
        outcome.backward()
        optimizer.step()
        if setting.device.type == "cuda":
            torch.cuda.synchronize(setting.device)

    return step


def measure(setting: Setting, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each method's step by round, after a round that only warms up."""
    steps = {name: training_step(setting, options) for name, options in METHODS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in tqdm(range(rounds + 1), unit="round"):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if index > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: dict[str, list[float]], batch_size: int) -> dict[str, Any]:
    """Return each method's best and median step, and the median ratio to PGD-10 with its quartiles.

    Args:
        seconds: Seconds of each method's step by round.
        batch_size: Pictures a step.
    """
    methods: dict[str, dict[str, Any]] = {}
    for name, times in seconds.items():
        ratios = [own / reference for own, reference in zip(times, seconds[REFERENCE], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        methods[name] = {
            "best_ms": round(1000 * min(times), 2),
            "median_ms": round(1000 * statistics.median(times), 2),
            "images_per_second": round(batch_size / statistics.median(times), 1),
            "ratio_to_pgd10": round(median, 3),
            "ratio_quartiles": [round(low, 3), round(high, 3)],
            "ratio_of_bests": round(min(times) / min(seconds[REFERENCE]), 3),
        }
    return {
        "methods": methods,
        "self_gradient_to_pgd10": methods[ONE_STEP]["ratio_to_pgd10"],
        "times_cheaper_than_pgd10": round(1 / methods[ONE_STEP]["ratio_to_pgd10"], 2),
    }


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser("benchmarks.training_cost", __doc__)
    parser.add_argument("--arch", default="wrn-10-2", help="backbone")
    parser.add_argument("--image-size", type=int, default=32, help="side in pixels")
    parser.add_argument("--batch-size", type=int, default=128, help="pictures a step")
    parser.add_argument("--rounds", type=int, default=15, help="how many steps of each method are timed")
    parser.add_argument(
        "--precision", choices=("float32", "bf16"), help="default: bf16 where the hardware computes in it"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, ...")
    parser.add_argument("--threads", type=thread_count, default=1, help="CPU threads")
    add_out(parser, RESULT)
    return parser


@errors_told
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = build_parser().parse_args(argv)
    if arguments.rounds < 2:
        say("error: --rounds must be at least 2, to show how far they lie apart")
        return 2
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    precision = arguments.precision or hardware_precision(device)
    setting = Setting(arguments.arch, arguments.image_size, arguments.batch_size, precision, device)
    seconds = measure(setting, arguments.rounds)
    result = {
        "command": "python -m benchmarks.training_cost " + " ".join(sys.argv[1:] if argv is None else argv),
        "arch": setting.arch,
        "image_size": setting.image_size,
        "batch_size": setting.batch_size,
        "precision": precision,
        "device": device_name(device),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "versions": current_versions(),
        "git_commit": commit(),
        **summary(seconds, setting.batch_size),
    }
    rows = []
    for name, row in result["methods"].items():
        low, high = row["ratio_quartiles"]
        rows.append([name, row["median_ms"], row["images_per_second"], f"{row['ratio_to_pgd10']} ({low} to {high})"])
    header = ("training step", "ms, median", "images/s", "ratio to PGD-10 (quartiles)")
    print(markdown.table(header, [[str(cell) for cell in row] for row in rows], "lrrr"))
    write_result(arguments.out, result)
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
