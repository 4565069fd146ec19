"""Draw the plots of a robustness report, as PNG files."""

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from training.attacks.rows import Family, State
from training.evaluate.diagnostics.convergence import Iteration
from training.evaluate.report import CURVE, Report
from training.networks.self_gradient import SelfGradientNetwork

FAMILIES: dict[Family, str] = {"pgd": "PGD", "cw": "CW"}


def accuracy_over_eps(report: Report, path: Path) -> bool:
    """Plot accuracy against epsilon, and return whether there was anything to plot."""
    curve = report.measured.get(CURVE, {})
    if len(curve) < 2:
        return False
    levels = sorted(int(level) for level in curve)
    figure, axes = _figure("epsilon, 255ths of the intensity range", "accuracy, %")
    axes.plot(levels, [100 * curve[str(level)] for level in levels], marker="o")
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [str(level) for level in levels])
    axes.set_ylim(bottom=0)
    axes.set_title("lowest of PGD-40 and CW-40, per picture")
    return _save(figure, path)


def accuracy_over_steps(report: Report, path: Path) -> bool:
    """Plot accuracy under PGD and CW against the number of steps; return whether there was anything to plot."""
    figure, axes = _figure("steps", "accuracy, %")
    all_steps: set[int] = set()
    for state in report.states():
        for family, title in FAMILIES.items():
            points = _accuracy_by_steps(report, state, family)
            if len(points) > 1:
                steps = sorted(points)
                axes.plot(steps, [100 * points[step] for step in steps], marker="o", label=f"{title}, {state}")
                all_steps |= set(steps)
    if not all_steps:
        return False
    axes.set_xscale("log")
    axes.set_xticks(sorted(all_steps), [str(step) for step in sorted(all_steps)])
    axes.set_xticks([], minor=True)
    axes.legend()
    return _save(figure, path)


def _accuracy_by_steps(report: Report, state: State, family: Family) -> dict[int, float]:
    """Return the accuracies of a family's plain rows by the number of steps."""
    return {
        one.steps: row.accuracy
        for one, row in report.rows.items()
        if one.steps is not None and (one.state, one.family) == (state, family) and one.is_plain
    }


def gallery(
    model: SelfGradientNetwork,
    images: Tensor,
    attacked: Tensor,
    labels: Tensor,
    class_names: tuple[str, ...],
    path: Path,
) -> bool:
    """Plot a row for each picture: clean, perturbed, and with a block the self-gradient and the corrected picture.

    Args:
        model: The network.
        images: (N, 3, H, W) in [0, 1], a handful.
        attacked: The perturbed pictures, (N, 3, H, W) in [0, 1].
        labels: (N).
        class_names: Names of the classes.
        path: PNG file.

    Returns:
        True: there always is something to plot.
    """
    with torch.no_grad():
        columns = [("clean", images, model(images)), ("perturbed", attacked, model(attacked))]
        if model.block is not None:
            plain, gradient = model.first_pass(attacked)
            corrected = attacked + model.block(gradient)
            largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
            columns += [
                ("self-gradient", 0.5 + gradient / (2 * largest), plain),
                ("corrected", corrected, model(attacked)),
            ]
    figure = Figure(figsize=(1.9 * len(columns), 2.1 * len(images)), layout="constrained")
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, right in enumerate(labels.tolist()):
        for column, (title, pictures, logits) in enumerate(columns):
            axes: Axes = grid[row, column]
            axes.imshow(pictures[row].clamp(0, 1).permute(1, 2, 0).cpu().numpy())
            axes.set_axis_off()
            answer = "" if title == "self-gradient" else f": {class_names[int(logits[row].argmax())]}"
            axes.set_title(f"{title}{answer}" + (f"\n({class_names[right]})" if column == 0 else ""), fontsize=8)
    return _save(figure, path)


def convergence(iterations: Mapping[str, Iteration], path: Path) -> bool:
    """Plot how far each iteration moves the gradient (figure 2), and the bound that theorem 1's proof sets."""
    figure, axes = _figure("iteration n", "L2 norm of the gradient's change, mean over pictures")
    for index, (name, iteration) in enumerate(iterations.items()):
        steps = range(1, len(iteration.gradient_change) + 1)
        colour = f"C{index}"
        axes.plot(steps, iteration.gradient_change, marker="o", color=colour, label=name)
        axes.plot(
            steps, iteration.bound(), linestyle=":", color=colour, label=f"bound, epsilon {iteration.epsilon:.3g}"
        )
    axes.set_yscale("symlog", linthresh=1e-6)
    axes.set_ylim(bottom=0)
    axes.legend()
    return _save(figure, path)


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> bool:
    figure.savefig(path, dpi=120)
    return True
