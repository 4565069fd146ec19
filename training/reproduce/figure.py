"""Figure 2: the self-gradient, iterated, and theorem 1's bound beside it."""

from pathlib import Path
from typing import Any

import torch

from training.checkpoint import load_checkpoint
from training.data.batches import to_float
from training.data.loading import choose_pictures, load_pictures
from training.evaluate import plots
from training.evaluate.diagnostics.convergence import Iteration, measure_convergence
from training.reproduce.runs import Run

PICTURES = 100


def iterate_run(run: Run) -> dict[str, Iteration]:
    """Ten iterations of a trained run's block, and of the theorem's own form, on 100 test pictures."""
    model, info = load_checkpoint(run.checkpoint)
    model.requires_grad_(False)
    source = run.source
    pictures = load_pictures(source.reader, source.data_root, "test", info.recipe.get("image_size"), info.class_names)
    chosen = choose_pictures(pictures, PICTURES, seed=0)
    images = to_float(chosen.images).contiguous(memory_format=torch.channels_last)
    return measure_convergence(model, images, info.epsilon)


def text(iterations: dict[str, Iteration]) -> str:
    """A Markdown table of how far each iteration moves the gradient, and what of theorem 1 held."""
    names = list(iterations)
    rows = ["| iteration | " + " | ".join(f"{name} | bound" for name in names) + " |"]
    rows.append("| ---: |" + " ---: |" * 2 * len(names))
    for n in range(len(iterations[names[0]].gradient_change)):
        cells = []
        for name in names:
            one = iterations[name]
            cells += [f"{one.gradient_change[n]:.3g}", f"{one.bound()[n]:.3g}"]
        rows.append(f"| {n + 1} | " + " | ".join(cells) + " |")
    rows += ["", "L2 norm of the gradient's change, mean over pictures. The paper draws it falling to about zero."]
    for name, one in iterations.items():
        bound = f"{'keeps' if one.within_bound() else 'does not keep'} to the bound of theorem 1's proof"
        rows += ["", f"{name}: the last step is {one.left_over():.1%} of the first; it {bound}."]
    return "\n".join(rows)


def as_dict(iterations: dict[str, Iteration], run: Run) -> dict[str, Any]:
    return {
        "pictures": PICTURES,
        "training": run.shell_command(run.training_command(resume=False)),
        "iterations": {name: one.as_dict() for name, one in iterations.items()},
    }


def draw(iterations: dict[str, Iteration], path: Path) -> None:
    plots.convergence(iterations, path)
