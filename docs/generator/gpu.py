"""Make the tables of what was measured on a GPU, from results/gpu_run.json."""

from typing import Any

from docs.generator.markdown import figures_table
from docs.generator.results import percent, result
from release.paired import sign_test
from training.common.markdown import table
from training.config import BATCH_SIZE

CONTENDERS = {
    "eager, one pass": "PyTorch, one pass, ms",
    "eager, both passes": "PyTorch, both passes, ms",
    "graph, CUDA graph": "exported graph, ms",
    "graph, fused block, CUDA graph": "the same with the fused block, ms",
}


def stage(name: str, run: int = 0) -> dict[str, Any]:
    """Return the figures of a stage of one run; 0 is the first."""
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
    for run, name in ((0, "train-plain"), (1, "train-self-gradient"), (2, "train-resnet-18")):
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


def resnet_table() -> str:
    """Return what the ResNet-18 withstands after each attack of AutoAttack."""
    rows = []
    for name, figures in stage("attacks", 2)["accuracy"]["resnet-18"].items():
        low, high = figures["interval_95"]
        rows.append(
            (name, percent(figures["accuracy"]), f"{percent(low)} to {percent(high)}", str(figures["pictures"]))
        )
    return figures_table(("after", "accuracy, %", "95 % interval", "pictures"), rows)


def recipes_table() -> str:
    """Return the recipes that were trained side by side, the most robust first."""
    found = stage("recipes", 3)["recipes"]
    reference = found["uniform-ema"]["right"]["APGD-T"]
    rows = []
    for name in sorted(found, key=lambda name: -found[name]["lowest"]):
        recipe = found[name]
        right = recipe["right"]["APGD-T"]
        more, fewer = (
            sum(a > b for a, b in zip(*pair, strict=True)) for pair in ((right, reference), (reference, right))
        )
        p_value = sign_test(more, fewer)
        told = "" if name == "uniform-ema" else f"{p_value:.2f}" if p_value >= 0.01 else "below 0.01"
        figures = (percent(recipe[row]) for row in ("clean", "APGD-CE", "lowest"))
        rows.append((name, recipe["about"], str(recipe["epochs"]), *figures, told))
    header = (
        "recipe",
        "what it is",
        "epochs",
        "clean, %",
        "APGD-CE, %",
        "APGD-CE and APGD-T, %",
        "p against uniform-ema",
    )
    return table(header, rows, "llrrrrr")
