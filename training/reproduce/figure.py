"""Make figure 2: the self-gradient, iterated, with theorem 1's bound beside it."""

from pathlib import Path
from typing import Any

import torch

from sgn_serve.common.markdown import table
from training.checkpoint import load_checkpoint
from training.data.automatic_split import Part
from training.data.batches import to_float
from training.data.loading import choose_pictures, load_pictures
from training.evaluate import plots
from training.evaluate.diagnostics.convergence import Iteration, measure_convergence
from training.reproduce.experiment import Experiment

PICTURES = 100


def iterate_block(experiment: Experiment) -> dict[str, Iteration]:
    """Iterate a trained network's block ten times, and the theorem's own form, on 100 test pictures."""
    model, info = load_checkpoint(experiment.checkpoint)
    model.requires_grad_(False)
    source = experiment.source
    size = info.recipe.get("image_size")
    pictures = load_pictures(
        source.reader, source.data_root, Part("test", info.split), size, info.class_names, info.resize
    )
    chosen = choose_pictures(pictures, PICTURES, seed=0)
    images = to_float(chosen.images).contiguous(memory_format=torch.channels_last)
    return measure_convergence(model, images, info.epsilon)


def text(iterations: dict[str, Iteration]) -> str:
    """Return a Markdown table of how far each iteration moves the gradient, and whether theorem 1's bound held."""
    names = list(iterations)
    header = ["iteration", *(title for name in names for title in (name, "bound"))]
    rows = []
    for n in range(len(iterations[names[0]].gradient_change)):
        cells = [str(n + 1)]
        for name in names:
            one = iterations[name]
            cells += [f"{one.gradient_change[n]:.3g}", f"{one.bound()[n]:.3g}"]
        rows.append(cells)
    lines = [table(header, rows, "r" * len(header))]
    lines += ["", "L2 norm of the gradient's change, mean over pictures. The paper draws it falling to about zero."]
    for name, one in iterations.items():
        bound = f"{'keeps' if one.within_bound() else 'does not keep'} to the bound of theorem 1's proof"
        lines += ["", f"{name}: the last step is {one.left_over():.1%} of the first; it {bound}."]
    return "\n".join(lines)


def as_dict(iterations: dict[str, Iteration], experiment: Experiment) -> dict[str, Any]:
    """Return the figure's points and the command behind them as JSON values."""
    return {
        "pictures": PICTURES,
        "training": experiment.shell_command(experiment.training_command(resume=False)),
        "iterations": {name: one.as_dict() for name, one in iterations.items()},
    }


def draw(iterations: dict[str, Iteration], path: Path) -> None:
    """Draw the figure to a PNG file."""
    plots.convergence(iterations, path)
