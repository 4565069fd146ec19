"""`python -m training.evaluate`: attacks a checkpoint and reports what it withstands."""

import argparse
import hashlib
import shlex
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from training import robustness
from training.atomic_file import WriteError
from training.block_effect import measure_block_effect
from training.checkpoint import CheckpointError, current_versions, git_commit, load_checkpoint
from training.data import DATASETS, DatasetError, PictureSet, load_pictures, split_validation, to_float
from training.numbers import number
from training.oracle import GradientOracle
from training.oracle_protocol import judge_oracle
from training.report import Report, row_key, standard_error
from training.robustness import Attack


def protocol(eps: float, has_block: bool, betas: list[float]) -> list[Attack]:
    """The attacks of a report, cheapest first.

    With a block: the paper's attacks with the block on and off, the smooth surrogate that sees the block, and what
    the block-off network's adversarial pictures do to the block-on one. Without: the paper's attacks, once, filed
    under block off.
    """
    attacks = []
    for block in (True, False) if has_block else (False,):
        attacks += [
            robustness.clean(block),
            robustness.fgsm(eps, block),
            robustness.pgd(10, block),
            robustness.pgd(20, block),
            robustness.cw(20, block),
        ]
    if has_block:
        attacks.append(robustness.block_off_transfer(20))
        attacks += [robustness.smooth_cw(20, beta) for beta in betas]
    return attacks


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m training.evaluate",
        description="Clean and attacked accuracy of a checkpoint, block on and off; "
        "the headline is the lowest accuracy per picture.",
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="model.safetensors written by python -m training")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--dataset", choices=DATASETS, help="which reader reads it (default: the one trained with)")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="part of the data set")
    parser.add_argument("--pictures", type=int, default=1000, help="how many, the same number of each class")
    parser.add_argument("--eps", type=number, default=8 / 255, help="L-inf budget, units of pixel intensity (8/255)")
    parser.add_argument(
        "--beta", type=float, nargs="*", default=[5.0, 20.0, 100.0], help="smooth surrogate's sharpness"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pictures' draw and the attacks' starts")
    parser.add_argument("--batch-size", type=int, default=250, help="pictures attacked at once")
    parser.add_argument("--report", type=Path, help="JSON file (default: evaluation.json beside the checkpoint)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1, ..."
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    return parser


def choose_pictures(pictures: PictureSet, count: int, seed: int) -> PictureSet:
    """`count` pictures drawn evenly over the classes, or all where there are no more."""
    return pictures if count >= len(pictures) else split_validation(pictures, count, seed)[1]


def evaluate(arguments: argparse.Namespace, command: str) -> None:
    """Runs the protocol, saving the report after each attack; of a gradient oracle, table 1's two figures.

    raises CheckpointError, DatasetError
    """
    device = torch.device(arguments.device)
    model, info = load_checkpoint(arguments.ckpt)
    model.to(device).to(memory_format=torch.channels_last)
    model.requires_grad_(False)
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
    path = arguments.report or arguments.ckpt.with_name("evaluation.json")
    report = Report(
        setting={
            "checkpoint_sha256": hashlib.sha256(arguments.ckpt.read_bytes()).hexdigest(),
            "architecture": info.architecture,
            "method": info.method,
            "data": info.dataset,
            "split": arguments.split,
            "pictures": len(chosen),
            "norm": "L-inf",
            "eps": arguments.eps,
            "restarts": 1,
            "seed": arguments.seed,
            "batch_size": arguments.batch_size,
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
        print(judge_oracle(model, images, labels, report.setting, report.about, path))
        return
    attacks = protocol(arguments.eps, model.block is not None, arguments.beta)
    taken_over = report.take_over(path)
    if taken_over:
        print(f"{path}: going on after {taken_over} of {len(attacks)} attacks", file=sys.stderr)
    with tqdm(total=len(chosen), unit="picture", mininterval=0.5 if sys.stderr.isatty() else 60) as bar:
        for attack in attacks:
            if row_key(attack) in report.withstood:
                continue
            bar.reset(len(chosen))
            bar.set_description(row_key(attack))
            right = robustness.withstood(
                model,
                images,
                labels,
                attack,
                eps=arguments.eps,
                seed=arguments.seed,
                batch_size=arguments.batch_size,
                on_batch=bar.update,
            )
            report.add(attack, right)
            report.save(path)
    if model.block is not None:
        some = slice(0, min(500, len(chosen)))
        torch.manual_seed(arguments.seed)
        attacked = robustness.pgd(10).perturb(model, images[some], labels[some], arguments.eps)
        effect = measure_block_effect(model, images[some], attacked, eps=arguments.eps, seed=arguments.seed)
        report.block_effect = {name: round(value, 6) for name, value in effect.as_dict().items()}
        report.save(path)
    print(f"{report.setting['data']}, {arguments.split} split, {len(chosen)} pictures, L-inf eps {arguments.eps:.4f}\n")
    print(report.table())
    headline = report.headline()
    error = standard_error(headline, len(chosen))
    print(f"\nlowest accuracy per picture: {headline:.1%} (standard error {error:.1%})")
    if report.block_effect is not None:
        effect_values = report.block_effect
        print(
            f"block: moves a pixel by {255 * effect_values['correction_mean_abs']:.2f}/255 on average; off, "
            f"{effect_values['answers_changed']:.1%} of the answers change, "
            f"{effect_values['answers_changed_attacked']:.1%} of those on PGD-10 pictures"
        )
    print(f"wrote {path}")


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    command = shlex.join(["python", "-m", "training.evaluate", *(sys.argv[1:] if argv is None else argv)])
    try:
        evaluate(arguments, command)
    except (CheckpointError, DatasetError, ValueError, WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on after the last finished attack", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
