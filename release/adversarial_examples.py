"""Make the adversarial examples of the page at /ui: against the bundled model and a standard-trained one.

    python -m release.adversarial_examples --plain runs/standard-16-2/model.safetensors      # a minute or two

It writes sgn_serve/ui/examples/: small PNG files, clean and perturbed, and examples.json. That file names for each
picture the attacked model and the attack, and has both models' answers while the perturbation grows. Make the examples
anew whenever the bundled model changes (release.bundle does; a test compares the hashes).

The pictures are the first of each class, in file order, that both models classify rightly. So nothing is picked by how
an attack ends, with one exception, because the page has to show that the model can be fooled. Where the bundled model
withstands the attack on all of these pictures, the first picture on which it does not takes the place of its class.

Every perturbation is L-inf, 8/255. It is rounded to whole steps of 1/255 before it is judged, so the PNG files hold
what was judged. At strength k of 8 it is scaled by k/8 and rounded (scaled).
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from release.disagreement import answers, example_names, example_pictures
from sgn_serve.graph_format import file_sha256
from training.attacks import gradient_attack, projected_gradient
from training.attacks.gradient_attack import Attack
from training.checkpoint import CheckpointInfo, load_checkpoint
from training.common.errors import TrainingError
from training.common.provenance import current_versions, git_commit
from training.networks.self_gradient import SelfGradientNetwork

ROOT = Path(__file__).parents[1]
BUNDLED_CHECKPOINT = ROOT / "sgn_serve" / "bundled" / "model.safetensors"
FOLDER = ROOT / "sgn_serve" / "ui" / "examples"
DESCRIPTION = "examples.json"
STEPS = 8
"""Steps of 1/255: both the budget and the number of strengths."""
EPS = STEPS / 255
SEED = 0

# The last iterate is taken, not the first one that fools the network. It spends the whole budget, so that the
# perturbation has an effect at smaller strengths too.
ATTACKS = {
    "bundled": (
        replace(gradient_attack.pgd_attack(20), keep_best=False),
        replace(gradient_attack.cw_attack(20), keep_best=False),
        replace(gradient_attack.smooth_cw_attack(20, beta=20), keep_best=False),
    ),
    "standard": (
        replace(gradient_attack.pgd_attack(20), keep_best=False),
        replace(gradient_attack.cw_attack(20), keep_best=False),
    ),
}
"""The attacks on each target, in turn, with its block on where it has one."""

Pixels = NDArray[np.uint8]
"""(N, H, W, 3)"""


class ExamplesError(TrainingError):
    """A folder or checkpoints that no examples can be made with; the message names the fix."""


@dataclass(frozen=True)
class Target:
    """A network whose answers are recorded."""

    model: SelfGradientNetwork
    info: CheckpointInfo
    sha256: str

    def probabilities(self, pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the answers with the block on and off, (N, classes) each; without a block both are the same."""
        images = to_images(pixels)
        if self.model.block is None:
            with torch.no_grad():
                plain = self.model.plain_logits(images)
            corrected = plain
        else:
            corrected, plain = answers(self.model, images)
        first, second = (logits.double().softmax(dim=1).numpy() for logits in (corrected, plain))
        return first, second


def to_images(pixels: Pixels) -> Tensor:
    """Return pixels, (N, H, W, 3) of 0 to 255, as images, (N, 3, H, W) of 0 to 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def to_pixels(images: Tensor) -> Pixels:
    """Return images, (N, 3, H, W) of 0 to 1, as pixels, (N, H, W, 3) of 0 to 255, rounded."""
    rounded: Pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return rounded


def scaled(clean: Pixels, perturbed: Pixels, strength: int) -> Pixels:
    """Return the picture with its perturbation at a strength of 0 (none) to STEPS (all of it).

    The perturbation is rounded half away from zero, so it stays within strength/255.

    sgn_serve/ui/static/examples.js does the same.
    """
    difference = perturbed.astype(np.int64) - clean
    size = (2 * np.abs(difference) * strength + STEPS) // (2 * STEPS)
    return (clean + np.sign(difference) * size).astype(np.uint8)


def title(attack: Attack) -> str:
    """Return the attack's name for people. All of them go to the end, so the name leaves that out."""
    return replace(attack.id, to_the_end=False).title


def perturb(name: str, target: Target, clean: Pixels, labels: Tensor) -> tuple[Pixels, list[str]]:
    """Return attacked pictures, and the attack that made each of them.

    The attacks take turns, each on the pictures that are still classified rightly after rounding. Where none fools the
    network, the perturbation of the highest margin is kept.
    """
    images = to_images(clean)
    best, best_margin, chosen = clean.copy(), torch.full(labels.shape, -torch.inf), [""] * len(labels)
    for attack in ATTACKS[name]:
        left = (best_margin <= 0).nonzero().squeeze(1)
        if len(left) == 0:
            break
        torch.manual_seed(SEED)
        attacked = to_pixels(attack.perturb(target.model, images[left], labels[left], EPS))
        logits = torch.from_numpy(np.log(target.probabilities(attacked)[0] + 1e-300))
        margins = projected_gradient.margin(logits, labels[left])
        for pixels, margin, index in zip(attacked, margins, left.tolist(), strict=True):
            if margin > best_margin[index]:
                best[index], best_margin[index], chosen[index] = pixels, margin, title(attack)
        print(f"{name}: {title(attack)} on {len(left)} pictures done", file=sys.stderr)
    return best, chosen


def right(target: Target, pixels: Pixels, labels: Tensor) -> NDArray[np.bool_]:
    """Return which pictures are classified rightly, (N)."""
    correct: NDArray[np.bool_] = target.probabilities(pixels)[0].argmax(axis=1) == labels.numpy()
    return correct


def choose(labels: Tensor, both_right: NDArray[np.bool_], withstood: NDArray[np.bool_]) -> list[int]:
    """Return which pictures are shown: the first of each class that both models classify rightly.

    The top of this file names the one exception.

    Args:
        labels: (N).
        both_right: Which pictures both models classify rightly, (N).
        withstood: Which pictures the bundled model classifies rightly under the attack made against it, (N).

    Raises:
        ExamplesError: There is nothing to show.
    """
    candidates = [index for index in range(len(labels)) if both_right[index]]
    first: dict[int, int] = {}
    for index in candidates:
        first.setdefault(int(labels[index]), index)
    fooled = [index for index in candidates if not withstood[index]]
    if not fooled:
        raise ExamplesError(
            "the attack fools the bundled model on no picture, so the page would show a model that cannot be fooled; "
            "use a stronger attack"
        )
    if withstood[list(first.values())].all():
        first[int(labels[fooled[0]])] = fooled[0]
    return [first[label] for label in sorted(first)]


def likeliest(probabilities: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return the most likely class of each row of (N, classes)."""
    return [{"label": int(row.argmax()), "probability": round(float(row.max()), 4)} for row in probabilities]


def describe(name: str, target: Target) -> dict[str, Any]:
    """Return what examples.json says of a model and of the attacks on it."""
    return {
        "checkpoint_sha256": target.sha256,
        "architecture": target.info.architecture,
        "method": target.info.method,
        "attacks": [{"name": title(attack), **attack.parameters()} for attack in ATTACKS[name]],
    }


def make(targets: dict[str, Target], folder: Path, command: str) -> dict[str, Any]:
    """Attack, choose the pictures and write the folder anew; return the content of examples.json.

    Raises:
        ExamplesError: There is nothing to show.
    """
    images, labels = example_pictures()
    names, clean = [name.removesuffix(".png") for name in example_names()], to_pixels(images)
    perturbed, attack_names = {}, {}
    for name, target in targets.items():
        perturbed[name], attack_names[name] = perturb(name, target, clean, labels)
    both_right = np.logical_and(*(right(target, clean, labels) for target in targets.values()))
    bundled = targets["bundled"]
    shown = choose(labels, both_right, right(bundled, perturbed["bundled"], labels))

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    examples = []
    for index in shown:
        Image.fromarray(clean[index]).save(folder / f"{names[index]}.png", optimize=True)
        tampered = {}
        for attacked in targets:
            file = f"{names[index]}-against-{attacked}.png"
            Image.fromarray(perturbed[attacked][index]).save(folder / file, optimize=True)
            strengths = np.stack([scaled(clean[index], perturbed[attacked][index], k) for k in range(STEPS + 1)])
            corrected, plain = bundled.probabilities(strengths)
            tampered[attacked] = {
                "file": file,
                "attack": attack_names[attacked][index],
                "standard": targets["standard"].probabilities(strengths)[0].round(4).tolist(),
                "bundled": likeliest(corrected),
                "bundled, block off": likeliest(plain),
            }
        examples.append(
            {"name": names[index], "label": int(labels[index]), "file": f"{names[index]}.png", "tampered": tampered}
        )
    described = {
        "about": "Example pictures and perturbations of them; per strength, from 0 to steps, what each model answers: "
        "of the standard one every class's probability, of the bundled one, which is asked live, the likeliest class",
        "command": command,
        "source": "examples/ (test pictures of CIFAR-10, JPEG copy)",
        "norm": "L-inf",
        "eps": EPS,
        "steps": STEPS,
        "seed": SEED,
        "class_names": list(bundled.info.class_names),
        "models": {name: describe(name, target) for name, target in targets.items()},
        "right_of_all": {
            "pictures": len(labels),
            "clean": {name: int(right(target, clean, labels).sum()) for name, target in targets.items()},
            **{
                f"against {attacked}": {
                    name: int((right(target, clean, labels) & right(target, perturbed[attacked], labels)).sum())
                    for name, target in targets.items()
                }
                for attacked in targets
            },
        },
        "examples": examples,
        "versions": current_versions(),
        "git_commit": git_commit(),
    }
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n")
    return described


def load(path: Path) -> Target:
    """Load a checkpoint.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    model, info = load_checkpoint(path)
    return Target(model, info, file_sha256(path))


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        "python -m release.adversarial_examples", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--ckpt", type=Path, default=BUNDLED_CHECKPOINT, help="the model that is served (default: the bundled one)"
    )
    parser.add_argument("--plain", type=Path, required=True, help="checkpoint of a standard-trained network")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder, emptied first (default: sgn_serve/ui/examples)"
    )
    return parser.parse_args(command_line)


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    arguments = parse(command_line)
    try:
        if arguments.out.exists() and not (arguments.out / DESCRIPTION).is_file() and any(arguments.out.iterdir()):
            raise ExamplesError(f"{arguments.out}: holds other files, and would be emptied; name another folder")
        targets = {"bundled": load(arguments.ckpt), "standard": load(arguments.plain)}
        if targets["bundled"].info.class_names != targets["standard"].info.class_names:
            raise ExamplesError(
                f"{arguments.plain}: its classes are not those of {arguments.ckpt}; name one of the same data"
            )
        given = sys.argv[1:] if command_line is None else list(command_line)
        described = make(targets, arguments.out, " ".join(["python -m release.adversarial_examples", *given]))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    for row, counts in described["right_of_all"].items():
        print(f"{row}: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
