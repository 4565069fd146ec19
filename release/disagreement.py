"""Measure whether the disagreement that the service reports tells attacked pictures from clean ones.

    python -m release.disagreement                                      # the 100 example pictures, PGD-20: minutes
    python -m release.disagreement --attacks pgd autoattack knowing \
        --data-root data --pictures 1000                                   # hours on a CPU

It writes results/disagreement.json. The score of a picture is the Jensen-Shannon divergence between the answers with
the block on and off. For each attack the file has the ROC curve of attacked pictures against the same ones unattacked.
It also has the area under the curve: 1 is a perfect sign, 0.5 none. For two limits it has the share of attacks that the
limit catches: those that 1 % and 5 % of the clean pictures exceed. SGN_MAX_DISAGREEMENT may be set to one of them. The
same figures follow for the attacks that succeeded alone, for only they matter.

There are three attacks. The first is PGD-20. The second is AutoAttack's four in turn, each on what withstood the ones
before. The third knows of the check, and fools the network with as little disagreement as it can (KnowingAttack).
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.provenance import commit
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import SHA256_KEY, file_sha256
from sgn_serve.pictures.files import read_rgb
from training.attacks import gradient_attack, projected_gradient
from training.attacks.auto_attack import Algorithm, GradientStage, Square
from training.attacks.base import AttackOn
from training.checkpoint import CheckpointError, load_checkpoint
from training.common import run_files
from training.common.provenance import current_versions
from training.config import EPS
from training.data.batches import to_float
from training.data.loading import load_pictures, split_indices
from training.derivatives.smooth_surrogate import SmoothSurrogate
from training.networks.self_gradient import SelfGradientNetwork

RESULT = ROOT / "results" / "disagreement.json"
FALSE_ALARMS = (0.01, 0.05)
ATTACKS = {"pgd": "PGD-20", "autoattack": "AutoAttack", "knowing": "knowing attacker"}


def _example_rows() -> list[dict[str, str]]:
    with (ROOT / "examples" / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def example_names() -> list[str]:
    """Return the file names of the example pictures, in the order of example_pictures."""
    return [row["filename"] for row in _example_rows()]


def example_pictures() -> tuple[Tensor, Tensor]:
    """Return the example pictures, (100, 3, 32, 32) in [0, 1], and their labels, (100)."""
    rows = _example_rows()
    pixels = np.stack([read_rgb(ROOT / "examples" / row["filename"], None) for row in rows])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return images, torch.tensor([int(row["index"]) for row in rows])


def divergence_bits(first: Tensor, second: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of two batches of logits, (N, classes) to (N), in bits, as served."""
    log_first, log_second = first.double().log_softmax(dim=1), second.double().log_softmax(dim=1)
    middle = torch.logaddexp(log_first, log_second) - np.log(2)
    nats = sum((log.exp() * (log - middle)).sum(dim=1) for log in (log_first, log_second)) / 2
    return torch.as_tensor(nats / np.log(2)).clamp(0, 1)


def answers(model: SelfGradientNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits with the block on and off, (N, classes) each."""
    with torch.no_grad():
        plain, gradient = model.first_pass(images)
        return model.second_pass(images, gradient), plain


@dataclass(frozen=True)
class KnowingAttack:
    """Fool the network with its block on, then lower the disagreement for as long as it stays fooled.

    Each step goes up the margin loss where the picture is still classified rightly (or hardly wrongly), and down the
    disagreement where it is fooled. The result is the fooled iterate of least disagreement. Gradients see the block
    through the smooth surrogate of the first pass.

    Source: the selective form of Bryniarski et al., Evading Adversarial Example Detection Defenses with Orthogonal
    Projected Gradient Descent (2022).

    Attributes:
        steps: Number of steps.
        step_size: Units of pixel intensity.
        beta: Softplus sharpness of the surrogate.
        confidence: Margin, in logits, that it keeps while it lowers the disagreement.
    """

    steps: int = 100
    step_size: float = 1 / 255
    beta: float = 20.0
    confidence: float = 0.05

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached, within the epsilon ball and [0, 1]; start at the images."""
        low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
        current, best = images.clone(), images.clone()
        least = torch.full(labels.shape, torch.inf, dtype=torch.float64)
        fooled = torch.zeros_like(labels, dtype=torch.bool)
        for step in range(self.steps + 1):
            inputs = current.detach().requires_grad_()
            with torch.enable_grad():
                corrected, plain = self._seen(model, inputs)
                margins = projected_gradient.margin(corrected, labels)
                bits = divergence_bits(corrected, plain)
                goal = torch.where(margins > self.confidence, -bits, margins.double())
                (gradient,) = torch.autograd.grad(goal.sum(), inputs)
            better = (margins > 0) & (bits < least)
            best[better], least[better] = current[better], bits.detach()[better]
            fooled |= margins > 0
            if step < self.steps:
                current = torch.clamp(current + self.step_size * gradient.sign(), low, high)
        best[~fooled] = current[~fooled]
        return best

    def _seen(self, model: SelfGradientNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return exact logits, block on and off; the first pass's derivative is the smooth one."""
        with torch.no_grad():
            exact = model.self_gradient(images.detach())
        with SmoothSurrogate(self.beta):
            smooth = model.self_gradient(images)
        return model.second_pass(images, exact + (smooth - smooth.detach())), model.plain_logits(images)


def auto_attack(model: SelfGradientNetwork, images: Tensor, labels: Tensor, iterations: int, queries: int) -> Tensor:
    """Return the pictures after AutoAttack's attacks, each run on the pictures that withstood those before."""
    algorithms: tuple[Algorithm, ...] = ("apgd-ce", "apgd-t", "fab-t")
    stages: list[AttackOn[SelfGradientNetwork]] = [
        GradientStage(algorithm, iterations=iterations) for algorithm in algorithms
    ]
    attacked = images.clone()
    for stage in (*stages, Square(queries=queries)):
        corrected, _ = answers(model, attacked)
        left = corrected.argmax(dim=1) == labels
        if left.any():
            torch.manual_seed(0)
            attacked[left] = stage.perturb(model, images[left], labels[left], EPS)
    return attacked


def area_under_roc(negatives: Tensor, positives: Tensor) -> float:
    """Return the probability that a random positive scores above a random negative, ties counted half."""
    difference = positives[:, None] - negatives[None, :]
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()


def detection(clean: Tensor, attacked: Tensor) -> dict[str, Any]:
    """Return how well a limit on the disagreement tells `attacked` from `clean`, (N) bits each."""
    if len(attacked) == 0:
        return {"pictures": 0}
    rates = np.linspace(0, 1, 101)
    limits = torch.quantile(clean, torch.as_tensor(1 - rates))
    caught = (attacked[None, :] > limits[:, None]).double().mean(dim=1)
    shown = {rate: round(100 * rate) for rate in FALSE_ALARMS}
    return {
        "pictures": len(attacked),
        "mean_bits": round(attacked.mean().item(), 4),
        "area_under_roc": round(area_under_roc(clean, attacked), 3),
        "limits": [
            {"false_alarms": rate, "limit_bits": round(limits[at].item(), 4), "caught": round(caught[at].item(), 3)}
            for rate, at in shown.items()
        ],
        "roc": {"false_alarms": [round(rate, 2) for rate in rates], "caught": [round(c, 3) for c in caught.tolist()]},
    }


def measure(model: SelfGradientNetwork, images: Tensor, labels: Tensor, attacked: Tensor) -> dict[str, Any]:
    """Return one attack's entry in the result."""
    corrected, plain = answers(model, images)
    clean, right = divergence_bits(corrected, plain), corrected.argmax(dim=1) == labels
    corrected, plain = answers(model, attacked)
    bits, fooled = divergence_bits(corrected, plain), (corrected.argmax(dim=1) != labels) & right
    return {
        "accuracy_clean": round(right.double().mean().item(), 4),
        "accuracy_attacked": round((corrected.argmax(dim=1) == labels).double().mean().item(), 4),
        "mean_bits_clean": round(clean.mean().item(), 4),
        **detection(clean, bits),
        "successful_only": detection(clean, bits[fooled]),
    }


def perturb(name: str, model: SelfGradientNetwork, images: Tensor, labels: Tensor, arguments: Any) -> Tensor:
    """Return the pictures after the attack of that name in ATTACKS."""
    torch.manual_seed(0)
    if name == "pgd":
        return gradient_attack.pgd_attack(20).perturb(model, images, labels, EPS)
    if name == "autoattack":
        return auto_attack(model, images, labels, arguments.iterations, arguments.queries)
    return KnowingAttack(arguments.iterations).perturb(model, images, labels, EPS)


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = command_parser("release.disagreement", __doc__)
    bundled = ROOT / "sgn_serve" / "bundled" / run_files.CHECKPOINT
    parser.add_argument("--ckpt", type=Path, default=bundled, help="checkpoint (default: the bundled one)")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=["pgd"], help="default: pgd")
    parser.add_argument("--data-root", type=Path, help="image folder with test/<class>/ (default: the examples)")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)", help="what the pictures are, for the result")
    parser.add_argument("--pictures", type=int, default=100, help="how many, drawn with seed 1 (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=100, help="pictures at a time (default: %(default)s)")
    parser.add_argument(
        "--iterations", type=int, default=100, help="iterations of AutoAttack's runs and of the knowing attacker"
    )
    parser.add_argument("--queries", type=int, default=5000, help="queries of AutoAttack's Square")
    add_out(parser, RESULT, "where the result goes")
    return parser.parse_args(command_line)


@errors_told
def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    arguments = parse(command_line)
    model, info = load_checkpoint(arguments.ckpt)
    if model.block is None:
        raise CheckpointError(f"{arguments.ckpt}: a network without a block, whose answers cannot disagree")
    if arguments.data_root is None:
        images, labels = (values[: arguments.pictures] for values in example_pictures())
    else:
        pictures = load_pictures(
            "image-folder", arguments.data_root, "test", info.image_size[0], tuple(info.class_names), info.resize
        )
        _, chosen = split_indices(pictures, arguments.pictures, 1)
        images, labels = to_float(pictures.images[chosen]), pictures.labels[chosen]
    rows = {}
    for name in arguments.attacks:
        parts = []
        for start in range(0, len(images), arguments.batch):
            some = slice(start, start + arguments.batch)
            parts.append(perturb(name, model, images[some], labels[some], arguments))
            say(f"{ATTACKS[name]}: {min(start + arguments.batch, len(images))} of {len(images)}")
        rows[ATTACKS[name]] = measure(model, images, labels, torch.cat(parts))
    knowing = KnowingAttack(arguments.iterations)
    result = {
        "command": " ".join(["python -m release.disagreement", *(sys.argv[1:] if command_line is None else [])]),
        SHA256_KEY: file_sha256(arguments.ckpt),
        "pictures": len(images),
        "data": arguments.data_name + (", examples/" if arguments.data_root is None else ""),
        "measure": "Jensen-Shannon divergence of the answers with the block on and off, bits",
        "setting": "L-inf, block on, seed 0; PGD-20 steps of 2/255, 1 restart; AutoAttack standard, one attack after "
        f"another, {arguments.iterations} iterations, {arguments.queries} queries; {knowing}",
        "eps": EPS,
        "attacks": rows,
        "versions": current_versions(),
        "git_commit": commit(),
    }
    write_result(arguments.out, result)
    for name, row in rows.items():
        successes = row["successful_only"].get("area_under_roc")
        print(f"{name}: area under ROC {row['area_under_roc']}, of the successful ones alone {successes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
