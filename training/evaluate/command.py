"""`python -m training.evaluate`: attacks a checkpoint and reports what it withstands."""

import argparse
import shlex
import sys
from pathlib import Path

import torch

from training.attacks.exported_graph import ExportedGraph, ExportedGraphError
from training.attacks.registry import DEFAULT, ENTRIES, PRESETS, Context, Source, build_attacks, network_calls
from training.checkpoint import CheckpointError, load_checkpoint
from training.common.command_line import number
from training.common.devices import check_threads, checked_device
from training.common.files import WriteError, sha256
from training.common.provenance import current_versions, git_commit
from training.common.signals import Terminated, terminable
from training.data.batches import to_float
from training.data.loading import DATASETS, choose_pictures, load_pictures
from training.data.picture_set import DatasetError
from training.derivatives.piecewise_linear import is_piecewise_linear
from training.evaluate.gradient_oracle import judge_oracle
from training.evaluate.prepare import other_reports, output_paths, source
from training.evaluate.report import Report
from training.evaluate.run import Evaluation
from training.networks.gradient_oracle import GradientOracle

PRESET_MEANING = {
    "quick": "block on and off: FGSM, PGD-10, PGD-20, CW-20; the smooth surrogate; transfer from block off",
    "paper": "block on and off: FGSM, PGD-10/20/40/100, CW-10/20/40/100",
    "autoattack": "block on and off: APGD-CE, APGD-T, FAB-T, Square",
    "full": "all of these and every adaptive attack below; every item of the masking checklist",
}


def build_parser() -> argparse.ArgumentParser:
    width = max(map(len, ENTRIES))
    typical = Context(eps=8 / 255, has_block=True, classes=10)
    calls = {name: sum(network_calls(attack, 10) for attack in build_attacks([name], typical)) for name in PRESETS}
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
    parser.add_argument("--restarts", type=int, default=1, help="of PGD-K and CW-K")
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
    parser.add_argument("--seed", type=int, default=0, help="of the pictures' draw and the attacks' starts")
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


def check_numbers(arguments: argparse.Namespace) -> None:
    """raises ValueError, naming the fix, for numbers that make no sense"""
    eps = arguments.eps
    if eps > 1:
        raise ValueError(f"--eps {eps:g} is above 1: intensities lie in [0, 1]; write --eps {eps:g}/255")
    if eps <= 0:
        raise ValueError(f"--eps must be above 0, not {eps:g}; without a budget there is only clean accuracy")
    for name in ("pictures", "batch_size", "restarts"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(arguments, name)}")
    check_threads(arguments.threads)
    for beta in arguments.beta:
        if beta <= 0:
            raise ValueError(f"--beta must be above 0, not {beta:g}; 5, 20 and 100 are the usual three")


def evaluate(arguments: argparse.Namespace, command: str) -> None:
    """Runs the attacks and the checklist, saving the report after each; of a gradient oracle, table 1's two figures.

    raises CheckpointError, DatasetError, ExportedGraphError, ValueError (a saved report of another setting), WriteError
    """
    check_numbers(arguments)
    others = other_reports(arguments.rows_from)
    device = checked_device(arguments.device)
    model, info = load_checkpoint(arguments.ckpt)
    model.to(device).to(memory_format=torch.channels_last)
    model.requires_grad_(False)
    checkpoint_sha256 = sha256(arguments.ckpt)
    graph = None
    if arguments.onnx is not None:
        graph = ExportedGraph(arguments.onnx, checkpoint_sha256, arguments.threads or 0)
    context = Context(
        eps=arguments.eps,
        has_block=model.block is not None,
        classes=len(info.class_names),
        betas=tuple(arguments.beta),
        restarts=arguments.restarts,
        checkpoint=Source(model, "the checkpoint", checkpoint_sha256) if graph else None,
        graph_sha256=sha256(arguments.onnx) if graph else "",
        transfer=source(arguments.transfer_from, info, device) if arguments.transfer_from else None,
    )
    names = list(arguments.attacks) + (["transfer-from"] if context.transfer else [])
    attacks = build_attacks(names, context)
    dataset = arguments.dataset or info.recipe["dataset"]
    image_size = info.recipe.get("image_size")
    pictures = load_pictures(dataset, arguments.data_root, arguments.split, image_size, info.class_names)
    chosen = choose_pictures(pictures, arguments.pictures, arguments.seed)
    found = (chosen.images.shape[2], chosen.images.shape[3])
    if found != info.image_size:
        raise DatasetError(
            f"{arguments.data_root}: pictures of {found[1]}x{found[0]}, but the checkpoint is for "
            f"{info.image_size[1]}x{info.image_size[0]}; give it pictures of that size"
        )
    images = to_float(chosen.images).to(device, memory_format=torch.channels_last)
    labels = chosen.labels.to(device)
    path, folder = output_paths(arguments)
    # What older reports do not say.
    since = {"pictures_sha256": chosen.sha256(), "reader": dataset}
    if len(chosen) == len(pictures):
        # Older reports on all pictures have them in the order of the data set.
        since["order"] = "shuffled"
    if model.block is not None and not is_piecewise_linear(model, images):
        # The rows whose view is "held" go through both passes then (views.plain_view).
        since["plain_gradient"] = "both passes"
    report = Report(
        setting={
            "checkpoint_sha256": checkpoint_sha256,
            "architecture": info.architecture,
            "method": info.method,
            "data": info.dataset,
            "split": arguments.split,
            "pictures": len(chosen),
            "norm": "L-inf",
            "eps": arguments.eps,
            "restarts": arguments.restarts,
            "seed": arguments.seed,
            "batch_size": arguments.batch_size,
            **since,
        },
        about={
            "command": command,
            "versions": current_versions(),
            "git_commit": git_commit(),
            "device": str(device),
            "core_seconds_of_training": info.history.get("core_seconds"),
        },
    )
    if isinstance(model, GradientOracle):
        if others:
            raise ValueError("--rows-from: a gradient oracle has two figures and no rows; leave that out")
        print(judge_oracle(model, images, labels, report.setting, report.about, path))
        return
    evaluation = Evaluation(
        model=model,
        images=images,
        labels=labels,
        class_names=info.class_names,
        report=report,
        path=path,
        betas=context.betas,
        batch_size=arguments.batch_size,
        graph=graph,
        others=others,
    )
    evaluation.run(attacks, whole_curve=folder is not None or "full" in names)
    if folder is not None:
        evaluation.write_page(folder)


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    command = shlex.join(["python", "-m", "training.evaluate", *(sys.argv[1:] if argv is None else argv)])
    try:
        check_numbers(arguments)
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        with terminable():
            evaluate(arguments, command)
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(f"error: out of memory on {arguments.device} ({reason}); pass a smaller --batch-size", file=sys.stderr)
        return 2
    except (CheckpointError, DatasetError, ExportedGraphError, ValueError, WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Terminated) as stop:
        print("interrupted; the same command goes on after the last finished batch of pictures", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    return 0
