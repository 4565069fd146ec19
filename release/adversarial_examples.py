"""Make the adversarial examples of the bundled model: against itself and against a standard-trained model.

    python -m release.adversarial_examples --plain runs/standard-16-2/model.safetensors      # a minute or two

It writes sgn_serve/bundled/model.examples.json, as `python -m export --examples` does for any model: for each picture
the attacked model and the attack. It has besides what the standard model answers while the perturbation grows, for the
service holds one graph. Make the examples anew whenever the bundled model changes (release.bundle does; a test compares
the hashes).

The pictures are the first of each class, in file order, that both models classify rightly. So nothing is picked by how
an attack ends, with one exception, because the page has to show that the model can be fooled. If the bundled model
withstands the attack on all of these pictures, the first picture on which it does not replaces that of its class.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.command_line import ROOT, add_out, command_parser
from export.errors import ExportError
from export.examples import (
    ExamplesError,
    Pixels,
    Target,
    attacks_on,
    describe,
    perturb,
    png,
    steps_of,
    tampered,
    to_pixels,
    write,
)
from release.disagreement import example_names, example_pictures
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import examples_path, file_sha256
from training.checkpoint import load_checkpoint
from training.common.errors import TrainingError

BUNDLED_GRAPH = ROOT / "sgn_serve" / "bundled" / "model.onnx"
BUNDLED_CHECKPOINT = BUNDLED_GRAPH.with_suffix(".safetensors")
EXAMPLES = examples_path(BUNDLED_GRAPH)
SERVED, STANDARD = "block-on", "standard"
"""Names of the two models in the file."""


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


def make(targets: dict[str, Target], command: str) -> dict[str, Any]:
    """Attack, choose the pictures and return the content of the file.

    Raises:
        ExamplesError: There is nothing to show.
    """
    images, labels = example_pictures()
    names, clean = [name.removesuffix(".png") for name in example_names()], to_pixels(images)
    eps = steps_of(targets[SERVED].info.epsilon) / 255
    perturbed, attack_names = {}, {}
    for name, target in targets.items():
        perturbed[name], attack_names[name] = perturb(target, clean, labels, eps)
    right = {name: target.right(clean, labels) for name, target in targets.items()}
    both_right = np.logical_and.reduce(list(right.values()))
    shown = choose(labels, both_right, targets[SERVED].right(perturbed[SERVED], labels))
    examples = [
        {
            "name": names[index],
            "label": int(labels[index]),
            "png": png(clean[index]),
            "tampered": {
                name: {
                    **tampered(targets, target, clean[index], perturbed[name][index], int(labels[index])),
                    "attack": attack_names[name][index],
                }
                for name, target in targets.items()
            },
        }
        for index in shown
    ]
    size = (clean.shape[1], clean.shape[2])
    described = describe(targets, "examples/ (test pictures of CIFAR-10, JPEG copy)", command, examples, size)
    return {**described, "right_of_all": _right_of_all(targets, right, perturbed, labels)}


def _right_of_all(
    targets: dict[str, Target], right: dict[str, NDArray[np.bool_]], perturbed: dict[str, Pixels], labels: Tensor
) -> dict[str, Any]:
    """Return how many of all pictures each model classifies rightly, unattacked and under the attack on each model."""
    rows: list[dict[str, Any]] = [{"against": None, "right": {name: int(own.sum()) for name, own in right.items()}}]
    rows += [
        {
            "against": attacked,
            "right": {
                name: int((right[name] & target.right(perturbed[attacked], labels)).sum())
                for name, target in targets.items()
            },
        }
        for attacked in targets
    ]
    return {"pictures": len(labels), "rows": rows}


def load_targets(served: Path, standard: Path) -> dict[str, Target]:
    """Load both checkpoints.

    Raises:
        CheckpointError: One cannot be loaded.
        ExamplesError: Their classes differ.
    """
    models = {path: load_checkpoint(path) for path in (standard, served)}
    infos = {path: info for path, (_, info) in models.items()}
    if infos[served].class_names != infos[standard].class_names:
        raise ExamplesError(f"{standard}: its classes are not those of {served}; name one of the same data")
    eps = steps_of(infos[served].epsilon) / 255
    rows = (
        (STANDARD, "a standard model", standard, False),
        (SERVED, "this model", served, True),
    )
    return {
        name: Target(name, title, *models[path], file_sha256(path), is_served, is_served, attacks_on(is_served, eps))
        for name, title, path, is_served in rows
    }


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = command_parser("release.adversarial_examples", __doc__)
    parser.add_argument(
        "--ckpt", type=Path, default=BUNDLED_CHECKPOINT, help="the model that is served (default: the bundled one)"
    )
    parser.add_argument("--plain", type=Path, required=True, help="checkpoint of a standard-trained network")
    add_out(parser, EXAMPLES, "the file")
    return parser.parse_args(command_line)


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    arguments = parse(command_line)
    given = sys.argv[1:] if command_line is None else list(command_line)
    try:
        targets = load_targets(arguments.ckpt, arguments.plain)
        content = make(targets, " ".join(["python -m release.adversarial_examples", *given]))
        write(content, arguments.out)
    except (ExportError, TrainingError) as error:
        say(f"error: {error}")
        return error.exit_status
    for row in content["right_of_all"]["rows"]:
        print(f"{'clean' if row['against'] is None else 'against ' + row['against']}: {row['right']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
