"""Make the tables of what was measured on a GPU, from results/gpu_run.json."""

from typing import Any

from docs.generator.markdown import figures_table
from docs.generator.results import percent, result
from training.config import BATCH_SIZE

CONTENDERS = {
    "eager, one pass": "PyTorch, one pass, ms",
    "eager, both passes": "PyTorch, both passes, ms",
    "graph, CUDA graph": "exported graph, ms",
    "graph, fused block, CUDA graph": "the same with the fused block, ms",
}


def stage(name: str, run: int = 0) -> dict[str, Any]:
    """Return the figures of a stage of the first run (0) or the second (1)."""
    figures: dict[str, Any] = result("gpu_run")["runs"][run]["stages"][name]["figures"]
    return figures


def speed_table() -> str:
    """Return the times of one and of both passes."""
    rows = []
    for name, best in stage("speed")["best"].items():
        shares = f"{percent(best['graph, CUDA graph']['share_of_peak'])} %"
        rows.append((name, *(f"{best[contender]['best_ms']:.2f}" for contender in CONTENDERS), shares))
    return figures_table(("network", *CONTENDERS.values(), "exported graph, share of the card's peak"), rows)


def training_table() -> str:
    """Return what the two trainings took and gave."""
    rows = []
    for run, name in ((0, "train-plain"), (1, "train-self-gradient")):
        figures = stage(name, run)
        epochs, trained = str(figures["epochs"]), figures["kept"]
        rows.append(
            (
                name.removeprefix("train-").replace("-", " "),
                str(figures["config"]["batch_size"] or BATCH_SIZE),
                epochs,
                f"{float(trained['wall_seconds']):.0f}",
                f"{float(trained['train_images_per_second']):,.0f}",
            )
        )
    return figures_table(("network", "batch", "epochs", "seconds", "pictures/s"), rows)


def attacks_table() -> str:
    """Return the accuracies after the attacks, with their intervals."""
    rows = []
    accuracy = stage("attacks", 1)["accuracy"]
    for name, measured in accuracy.items():
        cells = []
        for figures in measured.values():
            low, high = figures["interval_95"]
            cells.append(f"{percent(figures['accuracy'])} ({percent(low)} to {percent(high)})")
        rows.append((name, *cells))
    return figures_table(("network", *(f"{row}, %" for row in next(iter(accuracy.values())))), rows)
