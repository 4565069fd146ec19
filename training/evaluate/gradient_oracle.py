"""Judge the gradient oracle of table 1, which is told the true labels: on clean pictures and under PGD-10."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgn_serve.common.markdown import table
from training.attacks.projected_gradient import ProjectedGradientAscent
from training.common.files import write_atomically
from training.evaluate.measuring import Trial
from training.evaluate.saved_report import read_saved
from training.networks.gradient_oracle import GradientOracle

FORMAT = "self-gradient-oracle/1"
STEP_SIZE = 2 / 255
WARNING = "A gradient oracle is told the true label of every picture: these figures are no measure of robustness."


def oracle_withstood(trial: Trial[GradientOracle], steps: int) -> Tensor:
    """Return which pictures a gradient oracle classifies rightly when it is told their labels.

    The attack holds the gradient input fixed, and the oracle works it out anew at each step, from the label as well.
    Network and attacker know the same. This is the paper's experiment, not a measure of robustness. Torch's global
    generator is set to the trial's seed.

    Source: Self-Gradient Networks, section 2, table 1.

    Args:
        trial: The oracle and the pictures.
        steps: Steps of PGD with a uniform start and steps of 2/255; 0 measures clean accuracy, 10 is the paper's.

    Returns:
        (N) bool on the CPU.
    """
    torch.manual_seed(trial.seed)
    ascent = ProjectedGradientAscent(eps=trial.eps, steps=steps, step_size=STEP_SIZE, keep_best=False)
    right = []
    for images, labels in zip(trial.images.split(trial.batch_size), trial.labels.split(trial.batch_size), strict=True):
        attacked = images
        if steps > 0:
            attacked = ascent.perturb(trial.model.seen_with(labels), images, labels)
        with torch.no_grad():
            answers = trial.model.oracle_logits(attacked, labels).argmax(dim=1)
        right.append((answers == labels).cpu())
    return torch.cat(right)


def judge_oracle(trial: Trial[GradientOracle], setting: dict[str, Any], about: dict[str, Any], path: Path) -> str:
    """Write table 1's figures of an oracle as JSON, and its accuracy without being told the labels.

    Args:
        trial: The oracle and the pictures.
        setting: Everything that the figures depend on (training.evaluate.report.Report).
        about: Other facts for the reader: command, versions, commit, machine.
        path: JSON file.

    Returns:
        The figures as text.

    Raises:
        SavedReportError: The file is there and is no report of this setting.
        WriteError: The file cannot be written.
    """
    read_saved(path, FORMAT, setting)
    with torch.no_grad():
        answers = torch.cat([trial.model(some).argmax(dim=1) for some in trial.images.split(trial.batch_size)])
    results = {
        "clean": oracle_withstood(trial, steps=0),
        "PGD-10": oracle_withstood(trial, steps=10),
        "clean, not told the labels": (answers == trial.labels).cpu(),
    }
    accuracy = {name: round(right.float().mean().item(), 4) for name, right in results.items()}
    content = {"format": FORMAT, "warning": WARNING, "accuracy": accuracy, "setting": setting, "about": about}
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    rows = [[name, f"{100 * value:.1f}"] for name, value in accuracy.items()]
    return "\n".join([table(["accuracy, %", "with grad"], rows, "lr"), "", WARNING, f"wrote {path}"])
