"""Put example pictures beside a graph, with perturbations that fool its network: the page at /ui shows them.

The pictures are the first that the network classifies rightly, of each class in turn. So nothing is picked by how an
attack ends, with one exception, because the page has to show that a network can be fooled. Where the network withstands
the attack on all of them, the first further picture on which it does not takes the place of the last.

Every perturbation is L-inf, of the radius that the network was trained for. It is rounded to whole steps of 1/255
before it is judged, so the PNG files hold what was judged. At strength k of n it is scaled by k/n and rounded (scaled).
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from export.errors import ExportError
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import EXAMPLES_FORMAT, MAX_EXAMPLES_BYTES, SHA256_KEY, examples_path
from training.attacks import gradient_attack, projected_gradient
from training.attacks.gradient_attack import Attack
from training.checkpoint import CheckpointInfo
from training.common.files import write_atomically
from training.common.provenance import current_versions, git_commit, today
from training.config import EPS
from training.data.automatic_split import Part
from training.data.loading import choose_pictures, load_pictures
from training.data.picture_set import PictureSet
from training.networks.self_gradient import SelfGradientNetwork

SEED = 0
_CANDIDATES = 10
"""Pictures that are looked at for each one that is wanted: an example must be classified rightly."""
_FURTHER = 2
"""Further pictures that are attacked for each one that is wanted, where the attack fools the network on none."""
_TOGETHER = 50
"""Pictures that are classified at once."""
_LARGEST_SHARE = 1.02
"""Largest PNG file of a picture, as a share of its pixels' bytes: noise does not shrink."""

Pixels = NDArray[np.uint8]
"""(N, H, W, 3)"""


class ExamplesError(ExportError):
    """Examples that cannot be made; the message names the fix."""


@dataclass(frozen=True)
class Target:
    """A network that is attacked, or asked about pictures.

    Attributes:
        name: Its name in the file.
        title: Its name for people.
        model: The network.
        info: Its description.
        sha256: SHA-256 of its checkpoint.
        served: Whether it is the one that the graph holds.
        block: Whether its block is on.
        attacks: The attacks on it, in turn.
    """

    name: str
    title: str
    model: SelfGradientNetwork
    info: CheckpointInfo
    sha256: str
    served: bool
    block: bool
    attacks: tuple[Attack, ...]

    def probabilities(self, pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the answers with the block on and off, (N, classes) each; without a block both are the same."""
        both = [self._both(images) for images in to_images(pixels).split(_TOGETHER)]
        first, second = (torch.cat(logits).double().softmax(dim=1).numpy() for logits in zip(*both, strict=True))
        return first, second

    def _both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            if self.model.block is None:
                plain = self.model.plain_logits(images)
                return plain, plain
            plain, gradient = self.model.first_pass(images)
            return self.model.second_pass(images, gradient), plain

    def answers(self, pixels: Pixels) -> NDArray[np.float64]:
        """Return the answers in its own state, (N, classes)."""
        return self.probabilities(pixels)[0 if self.block else 1]

    def right(self, pixels: Pixels, labels: Tensor) -> NDArray[np.bool_]:
        """Return which pictures are classified rightly, (N)."""
        correct: NDArray[np.bool_] = self.answers(pixels).argmax(axis=1) == labels.numpy()
        return correct

    def describe(self) -> dict[str, Any]:
        """Return what the file says of it."""
        return {
            "title": self.title,
            "served": self.served,
            "block": self.block,
            SHA256_KEY: self.sha256,
            "architecture": self.info.architecture,
            "method": self.info.method,
            "attacks": [{"name": attack_title(attack), **attack.parameters()} for attack in self.attacks],
        }


def attacks_on(block: bool, eps: float) -> tuple[Attack, ...]:
    """Return the attacks on a network, in turn.

    The last iterate is taken, not the first one that fools the network. It spends the whole budget, so that the
    perturbation has an effect at smaller strengths too.

    Args:
        block: Whether its block is on.
        eps: The radius, in units of pixel intensity; a step is a quarter of it.
    """
    attacks = [gradient_attack.pgd_attack(20, block), gradient_attack.cw_attack(20, block)]
    if block:
        attacks.append(gradient_attack.smooth_cw_attack(20, beta=20))
    return tuple(replace(attack, step_size=eps / 4, keep_best=False) for attack in attacks)


def attack_title(attack: Attack) -> str:
    """Return the attack's name for people. All of them go to the end, so the name leaves that out."""
    return replace(attack.id, to_the_end=False).title


def to_images(pixels: Pixels) -> Tensor:
    """Return pixels, (N, H, W, 3) of 0 to 255, as images, (N, 3, H, W) of 0 to 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def to_pixels(images: Tensor) -> Pixels:
    """Return images, (N, 3, H, W) of 0 to 1, as pixels, (N, H, W, 3) of 0 to 255, rounded."""
    rounded: Pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return rounded


def scaled(clean: Pixels, perturbed: Pixels, strength: int, steps: int) -> Pixels:
    """Return the picture with its perturbation at a strength of 0 (none) to `steps` (all of it).

    The perturbation is rounded half away from zero. One of at most steps/255 stays within strength/255.

    The page at /ui does the same, in sgn_serve/ui/static/pixels.js.
    """
    difference = perturbed.astype(np.int64) - clean
    size = (2 * np.abs(difference) * strength + steps) // (2 * steps)
    return (clean + np.sign(difference) * size).astype(np.uint8)


def steps_of(eps: float) -> int:
    """Return the whole steps of 1/255 that a radius allows.

    Raises:
        ExamplesError: There are none.
    """
    steps = int(255 * eps + 0.01)
    if steps < 1:
        raise ExamplesError(
            f"--examples: perturbations of at most {eps:.4g} are less than 1/255, which no picture file holds; leave "
            "--examples out"
        )
    return steps


def perturb(target: Target, clean: Pixels, labels: Tensor, eps: float) -> tuple[Pixels, list[str]]:
    """Return attacked pictures, (N, H, W, 3), and the attack that made each of them.

    The attacks take turns, each on the pictures that are still classified rightly after rounding. Where none fools the
    network, the perturbation of the highest margin is kept.
    """
    images = to_images(clean)
    best, best_margin, chosen = clean.copy(), torch.full(labels.shape, -torch.inf), [""] * len(labels)
    for attack in target.attacks:
        left = (best_margin <= 0).nonzero().squeeze(1)
        if len(left) == 0:
            break
        torch.manual_seed(SEED)
        attacked = to_pixels(attack.perturb(target.model, images[left], labels[left], eps))
        logits = torch.from_numpy(np.log(target.answers(attacked) + 1e-300))
        margins = projected_gradient.margin(logits, labels[left])
        for pixels, margin, index in zip(attacked, margins, left.tolist(), strict=True):
            if margin > best_margin[index]:
                best[index], best_margin[index], chosen[index] = pixels, margin, attack_title(attack)
        say(f"examples: {target.title}: {attack_title(attack)} on {len(left)} pictures done")
    return best, chosen


def png(pixels: Pixels) -> str:
    """Return a picture, (H, W, 3), as a PNG file in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def likeliest(probabilities: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return the most likely class of each row of (N, classes)."""
    return [{"label": int(row.argmax()), "probability": round(float(row.max()), 4)} for row in probabilities]


def tampered(
    targets: Mapping[str, Target], attacked: Target, clean: Pixels, full: Pixels, label: int
) -> dict[str, Any]:
    """Return what the file says of one perturbed picture, but for its attack's name.

    Args:
        targets: The networks that are asked, by name.
        attacked: The one that the perturbation is against.
        clean: The picture, (H, W, 3).
        full: The picture at full strength, (H, W, 3).
        label: Its true class.
    """
    served = next(target for target in targets.values() if target.served)
    steps = steps_of(served.info.epsilon or EPS)
    strengths = np.stack([scaled(clean, full, strength, steps) for strength in range(steps + 1)])
    corrected, plain = served.probabilities(strengths)
    answers = {"block off": likeliest(plain)}
    if served.model.block is not None:
        answers = {"block on": likeliest(corrected), **answers}
    return {
        "png": png(full),
        "fooled": int(attacked.answers(full[None])[0].argmax()) != label,
        "answers": answers,
        "recorded": {
            name: target.answers(strengths).round(4).tolist() for name, target in targets.items() if not target.served
        },
    }


def describe(
    targets: Mapping[str, Target], source: str, command: str, examples: list[dict[str, Any]], size: tuple[int, int]
) -> dict[str, Any]:
    """Return the content of the file.

    Args:
        targets: The networks, by name, in the order in which to show them.
        source: Where the pictures come from, for readers.
        command: The command that makes them.
        examples: The examples, each with its name, label, PNG and perturbations.
        size: (height, width) of the pictures.
    """
    served = next(target for target in targets.values() if target.served)
    steps = steps_of(served.info.epsilon or EPS)
    return {
        "format": EXAMPLES_FORMAT,
        SHA256_KEY: served.sha256,
        "source": source,
        "norm": "L-inf",
        "eps": steps / 255,
        "steps": steps,
        "seed": SEED,
        "class_names": list(served.info.class_names),
        "height": size[0],
        "width": size[1],
        "models": {name: target.describe() for name, target in targets.items()},
        "right_of_all": None,
        "examples": examples,
        "command": command,
        "date": today(),
        "git_commit": git_commit(),
        "versions": current_versions(),
    }


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write the file of examples.

    Raises:
        ExamplesError: They take too many bytes.
        WriteError: The file cannot be written.
    """
    encoded = (json.dumps(content, indent=1) + "\n").encode()
    if len(encoded) > MAX_EXAMPLES_BYTES:
        raise ExamplesError(f"{path}: {len(encoded)} bytes of examples are more than {MAX_EXAMPLES_BYTES}; take fewer")
    write_atomically(path, encoded)


@dataclass(frozen=True)
class ExamplesWanted:
    """The examples that are to go with a graph.

    Attributes:
        count: How many.
        data_root: Folder of the data set.
        dataset: The reader of that folder, None for the one that the network was trained with.
        command: The command line, for the file.
    """

    count: int
    data_root: Path
    dataset: str | None
    command: str


def own_targets(model: SelfGradientNetwork, info: CheckpointInfo, sha256: str) -> dict[str, Target]:
    """Return the networks to attack: with the block on and off, or, without a block, the only one there is."""
    eps = steps_of(info.epsilon or EPS) / 255
    titles = {"block-off": (False, "this model")}
    if model.block is not None:
        titles = {"block-on": (True, "this model, block on"), "block-off": (False, "this model, block off")}
    return {
        name: Target(name, title, model, info, sha256, True, block, attacks_on(block, eps))
        for name, (block, title) in titles.items()
    }


def load_candidates(wanted: ExamplesWanted, info: CheckpointInfo, targets: int) -> PictureSet:
    """Load pictures of the test part to choose examples from, the same number of each class where they have it.

    Args:
        wanted: The examples that are wanted.
        info: The network's description.
        targets: Number of networks that each picture is perturbed against.

    Raises:
        DatasetError: The pictures cannot be read, or are of other classes.
        ExamplesError: So many pictures of this size would take too many bytes.
    """
    height, width = info.image_size
    each = int((1 + targets) * height * width * 3 * _LARGEST_SHARE * 4 / 3) + 2000
    if wanted.count * each > MAX_EXAMPLES_BYTES - 100_000:
        most = (MAX_EXAMPLES_BYTES - 100_000) // each
        fix = f"take at most --examples {most}" if most else "leave --examples out"
        raise ExamplesError(
            f"--examples {wanted.count}: so many pictures of {width}x{height} take too many bytes; {fix}"
        )
    reader = wanted.dataset or info.recipe.get("dataset")
    if reader is None:
        raise ExamplesError("--examples: the checkpoint does not say what reads its pictures; pass --dataset")
    part = Part("test", info.split)
    size = info.recipe.get("image_size") or (max(info.image_size) if reader == "image-folder" else None)
    pictures = load_pictures(reader, wanted.data_root, part, size, info.class_names, info.resize)
    found = (pictures.images.shape[2], pictures.images.shape[3])
    if found != info.image_size:
        raise ExamplesError(
            f"{wanted.data_root}: pictures of {found[1]}x{found[0]}, but the network is for {width}x{height}; name the "
            "data that it was trained on"
        )
    return choose_pictures(pictures, _CANDIDATES * wanted.count, SEED, strict=False)


def in_turn(labels: Sequence[int]) -> list[int]:
    """Return an order of pictures: the first of each class, then the second of each class, and so on."""
    seen: dict[int, int] = {}
    keys = []
    for index, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        keys.append((seen[label], label, index))
    return [index for _, _, index in sorted(keys)]


def make_examples(
    wanted: ExamplesWanted, candidates: PictureSet, targets: Mapping[str, Target], source: str
) -> dict[str, Any]:
    """Choose pictures, attack them and return the content of the file.

    Args:
        wanted: The examples that are wanted.
        candidates: Those of load_candidates.
        targets: Those of own_targets.
        source: Where the pictures come from, for readers.

    Raises:
        ExamplesError: The network classifies none of the pictures rightly.
    """
    clean: Pixels = np.ascontiguousarray(candidates.images.permute(0, 2, 3, 1).numpy())
    all_right = np.logical_and.reduce([target.right(clean, candidates.labels) for target in targets.values()])
    order = [index for index in in_turn(candidates.labels.tolist()) if all_right[index]]
    if not order:
        raise ExamplesError(
            f"--examples: the network classifies none of {len(candidates)} pictures rightly, so there is nothing to "
            "fool; train it further, or leave --examples out"
        )
    shown = order[: wanted.count]
    perturbed = {name: _perturbed(target, clean, candidates.labels, shown) for name, target in targets.items()}
    used = next((target for target in targets.values() if target.block), next(iter(targets.values())))
    full = np.stack([pixels for pixels, _ in perturbed[used.name]])
    further = order[wanted.count : (1 + _FURTHER) * wanted.count]
    if used.right(full, candidates.labels[shown]).all() and further:
        more = _perturbed(used, clean, candidates.labels, further)
        stay = used.right(np.stack([pixels for pixels, _ in more]), candidates.labels[further])
        if not stay.all():
            shown[-1] = further[int(stay.argmin())]
            for name, target in targets.items():
                perturbed[name][-1] = _perturbed(target, clean, candidates.labels, shown[-1:])[0]
    examples = []
    counts: dict[int, int] = {}
    for place, index in enumerate(shown):
        label = int(candidates.labels[index])
        counts[label] = counts.get(label, 0) + 1
        examples.append(
            {
                "name": f"{candidates.class_names[label]} {counts[label]}",
                "label": label,
                "png": png(clean[index]),
                "tampered": {
                    name: {
                        **tampered(targets, target, clean[index], perturbed[name][place][0], label),
                        "attack": perturbed[name][place][1],
                    }
                    for name, target in targets.items()
                },
            }
        )
    return describe(targets, source, wanted.command, examples, (clean.shape[1], clean.shape[2]))


def _perturbed(target: Target, clean: Pixels, labels: Tensor, indices: list[int]) -> list[tuple[Pixels, str]]:
    """Return some of the pictures perturbed against a network, each with its attack's name."""
    eps = steps_of(target.info.epsilon or EPS) / 255
    pixels, names = perturb(target, clean[indices], labels[indices], eps)
    return list(zip(pixels, names, strict=True))


def write_examples(content: Mapping[str, Any], graph: Path) -> Path:
    """Write examples beside a graph, and return their file.

    Raises:
        ExamplesError: They take too many bytes.
        WriteError: The file cannot be written.
    """
    path = examples_path(graph)
    write(content, path)
    return path
