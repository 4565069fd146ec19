"""How the gradient oracle of table 1 is judged: on clean pictures and under PGD-10, the true labels told to it."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.attacks import pgd
from training.common.files import write_atomically
from training.evaluate.saved_report import read_saved
from training.networks.gradient_oracle import GradientOracle

FORMAT = "self-gradient-oracle/1"
STEP_SIZE = 2 / 255
WARNING = "A gradient oracle is told the true label of every picture: these figures are no measure of robustness."


def oracle_withstood(
    model: GradientOracle,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    eps: float,
    seed: int,
    batch_size: int = 250,
) -> Tensor:
    """Which pictures a gradient oracle classifies rightly when it is told their labels.

    The attack holds the gradient input fixed and the oracle works it out anew at each step, from the label as well:
    network and attacker know the same. This is the paper's experiment, not a measure of robustness.

    images:  (N, 3, H, W) float32 in [0, 1]; labels (N)
    steps:   of PGD with a uniform start and steps of 2/255; 0 measures clean accuracy, 10 is the paper's
    seed:    torch's global generator is set to it
    returns: (N) bool on the CPU
    Source: Self-Gradient Networks, section 2, table 1.
    """
    torch.manual_seed(seed)
    right = []
    for some_images, some_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        attacked = some_images
        if steps > 0:
            attacked = pgd.pgd(
                model.seen_with(some_labels),
                some_images,
                some_labels,
                eps=eps,
                steps=steps,
                step_size=STEP_SIZE,
                keep_best=False,
            )
        with torch.no_grad():
            answers = model.oracle_logits(attacked, some_labels).argmax(dim=1)
        right.append((answers == some_labels).cpu())
    return torch.cat(right)


def judge_oracle(
    model: GradientOracle,
    images: Tensor,
    labels: Tensor,
    setting: dict[str, Any],
    about: dict[str, Any],
    path: Path,
) -> str:
    """Writes table 1's figures of an oracle as JSON, and what it says without its oracle.

    setting: what the figures depend on, eps, seed and batch_size among it (training.evaluate.report.Report)
    about:   what a reader should know besides
    path:    JSON file
    returns: the figures as text
    raises WriteError, and ValueError where the file is there and is no report of this setting
    """
    read_saved(path, FORMAT, setting)
    options = {name: setting[name] for name in ("eps", "seed", "batch_size")}
    with torch.no_grad():
        answers = torch.cat([model(some).argmax(dim=1) for some in images.split(setting["batch_size"])])
    results = {
        "clean": oracle_withstood(model, images, labels, steps=0, **options),
        "PGD-10": oracle_withstood(model, images, labels, steps=10, **options),
        "clean, not told the labels": (answers == labels).cpu(),
    }
    accuracy = {name: round(right.float().mean().item(), 4) for name, right in results.items()}
    content = {"format": FORMAT, "warning": WARNING, "accuracy": accuracy, "setting": setting, "about": about}
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    lines = ["| accuracy, % | with grad |", "| --- | ---: |"]
    lines += [f"| {name} | {100 * value:.1f} |" for name, value in accuracy.items()]
    return "\n".join([*lines, "", WARNING, f"wrote {path}"])
