"""Command line `python -m training.evaluate`: attack a checkpoint and report what it withstands."""

import argparse
import shlex
import sys
from pathlib import Path

import torch

from training.attacks.registry import DEFAULT, ENTRIES, PRESETS, Context, build_attacks
from training.common.command_line import number
from training.common.errors import TrainingError, first_line
from training.common.signals import Terminated, terminable
from training.data.loading import DATASETS
from training.evaluate.gradient_oracle import judge_oracle
from training.evaluate.prepare import Options, Prepared, prepare
from training.networks.gradient_oracle import GradientOracle

PRESET_MEANING = {
    "quick": "block on and off: FGSM, PGD-10, PGD-20, CW-20; the smooth surrogate; transfer from block off",
    "paper": "block on and off: FGSM, PGD-10/20/40/100, CW-10/20/40/100",
    "autoattack": "block on and off: APGD-CE, APGD-T, FAB-T, Square",
    "full": "all of these and every adaptive attack below; every item of the masking checklist",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, whose --help lists the presets and the attacks."""
    width = max(map(len, ENTRIES))
    typical = Context(eps=8 / 255, has_block=True, classes=10)
    calls = {name: sum(attack.network_calls(10) for attack in build_attacks([name], typical)) for name in PRESETS}
    epilog = [
        "presets of --attacks, and how often they call the network on a picture that withstands everything (10",
        "classes, a network with a block; pictures that fall cost much less):",
        *(f"  {name:<{width}}  {calls[name]:>6,}  {PRESET_MEANING[name]}" for name in PRESETS),
        "attacks by name:",
        f"  {'pgd-K, cw-K':<{width}}  K steps on cross-entropy or on the margin, for any K",
        *(f"  {name:<{width}}  {entry.description}" for name, entry in ENTRIES.items()),
    ]
    parser = argparse.ArgumentParser(
        "python -m training.evaluate",
        description="Clean and attacked accuracy of a checkpoint, block on and off; the headline is the lowest "
        "accuracy per picture, and a checklist says whether it is likely too high.",
        epilog="\n".join(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="model.safetensors written by python -m training")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--dataset", choices=DATASETS, help="which reader reads it (default: the one trained with)")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="part of the data set")
    parser.add_argument("--pictures", type=int, default=1000, help="how many, the same number of each class")
    parser.add_argument(
        "--attacks", nargs="+", default=list(DEFAULT), help="presets and names, listed below", metavar="A"
    )
    parser.add_argument("--eps", type=number, default=8 / 255, help="L-inf budget, units of pixel intensity (8/255)")
    parser.add_argument("--restarts", type=int, default=1, help="restarts of PGD-K and CW-K")
    parser.add_argument(
        "--beta", type=float, nargs="*", default=[5.0, 20.0, 100.0], help="smooth surrogate's sharpness"
    )
    parser.add_argument(
        "--transfer-from", type=Path, metavar="CKPT", help="also show it what fools this network: a plain one, say"
    )
    parser.add_argument(
        "--onnx",
        type=Path,
        help="also attack this exported graph of the checkpoint, as a black box: by the graph-* attacks below that are "
        "asked for, or all of them",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures' draw and of the attacks' starts")
    parser.add_argument("--batch-size", type=int, default=250, help="pictures attacked at once")
    parser.add_argument(
        "--report",
        type=Path,
        help="folder for everything (JSON, Markdown page, plots), or a .json file for that alone "
        "(default: evaluation.json beside the checkpoint)",
    )
    parser.add_argument(
        "--rows-from",
        type=Path,
        nargs="+",
        default=[],
        metavar="REPORT",
        help="reports of the same setting, measured by other processes or machines: take over what they have",
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1, ..."
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    return parser


def evaluate(prepared: Prepared) -> None:
    """Run the attacks and the checklist, saving the report after each; a gradient oracle gets table 1's two figures.

    Raises:
        SavedReportError: A saved report is of another setting or none at all.
        WriteError: The report cannot be written.
    """
    evaluation = prepared.evaluation
    trial, report = evaluation.trial, evaluation.report
    if isinstance(trial.model, GradientOracle):
        print(judge_oracle(trial.of(trial.model), report.setting, report.about, evaluation.path))
        return
    evaluation.run(prepared.attacks, whole_curve=prepared.whole_curve)
    if prepared.folder is not None:
        evaluation.write_page(prepared.folder)


def main(argv: list[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    options = Options(**vars(build_parser().parse_args(argv)))
    command = shlex.join(["python", "-m", "training.evaluate", *(sys.argv[1:] if argv is None else argv)])
    try:
        with terminable():
            evaluate(prepare(options, command))
    except torch.OutOfMemoryError as error:
        reason = first_line(error)
        print(f"error: out of memory on {options.device} ({reason}); pass a smaller --batch-size", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except (KeyboardInterrupt, Terminated) as stop:
        print("interrupted; the same command continues after the last finished batch of pictures", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    return 0
