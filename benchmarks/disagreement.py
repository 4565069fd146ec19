"""Is the disagreement that the service reports a sign of tampering? Clean example pictures against attacked ones.

    python -m benchmarks.disagreement

Writes results/disagreement.json: the area under the ROC curve of the total variation distance between the answers with
the block on and off, telling attacked pictures (PGD-20 on the network with its block on) from the same ones unattacked:
1 is a perfect sign, 0.5 is none.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training import robustness
from training.checkpoint import CheckpointError, current_versions, git_commit, load_checkpoint
from training.model import SelfGradientNetwork

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "disagreement.json"
EPS = 8 / 255


def example_pictures() -> tuple[Tensor, Tensor]:
    """The example pictures (100, 3, 32, 32) in [0, 1] and their labels (100)."""
    with (ROOT / "examples" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pixels = np.stack([np.asarray(Image.open(ROOT / "examples" / row["filename"])) for row in rows])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return images, torch.tensor([int(row["index"]) for row in rows])


def disagreement(model: SelfGradientNetwork, images: Tensor) -> Tensor:
    """Total variation distance between the answers with the block on and off, (N), as the service reports it."""
    with torch.no_grad():
        plain, gradient = model.first_pass(images)
        corrected = model.second_pass(images, gradient)
    return (plain.softmax(dim=1) - corrected.softmax(dim=1)).abs().sum(dim=1) / 2


def area_under_roc(negatives: Tensor, positives: Tensor) -> float:
    """Probability that a random positive scores above a random negative, ties counted half."""
    difference = positives[:, None] - negatives[None, :]
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.disagreement", description=(__doc__ or "").splitlines()[0])
    bundled = ROOT / "sgn_serve" / "bundled" / "model.safetensors"
    parser.add_argument("--ckpt", type=Path, default=bundled, help="checkpoint (default: the bundled one)")
    arguments = parser.parse_args()
    try:
        model, _ = load_checkpoint(arguments.ckpt)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    images, labels = example_pictures()
    torch.manual_seed(0)
    attacked = robustness.pgd(20).perturb(model, images, labels, EPS)
    clean, tampered = disagreement(model, images), disagreement(model, attacked)
    result = {
        "command": "python -m benchmarks.disagreement",
        "pictures": len(images),
        "data": "CIFAR-10 (JPEG copy), examples/",
        "attack": "PGD-20, L-inf, step 2/255, 1 restart, seed 0, block on",
        "eps": EPS,
        "mean_disagreement_clean": round(clean.mean().item(), 4),
        "mean_disagreement_attacked": round(tampered.mean().item(), 4),
        "area_under_roc": round(area_under_roc(clean, tampered), 3),
        "versions": current_versions(),
        "git_commit": git_commit(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
