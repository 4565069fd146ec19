"""Make the tables of what was measured on a GPU, from results/gpu_run.json."""

from typing import Any

from docs.generator.markdown import figures_table
from docs.generator.results import percent, result
from release.paired import sign_test
from sgn_serve.common.markdown import table
from training.attacks.rows import Family, RowId, State
from training.config import BATCH_SIZE
from training.evaluate.report import saved_rows

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


def fused_saving(name: str) -> str:
    """Return how many percent of the exported graph's time the fused block saves.

    Args:
        name: The network, its precision and its batch, as the stage "speed" calls them.
    """
    best = stage("speed")["best"][name]
    plain, fused = (best[contender]["best_ms"] for contender in ("graph, CUDA graph", "graph, fused block, CUDA graph"))
    return percent(1 - fused / plain, 0)


def training_share_of_peak() -> str:
    """Return how many percent of the peak of matrix products the training of the self-gradient network reached."""
    peak = stage("peak")["bf16_matmul_tflops"]
    return percent(stage("train-self-gradient", 1)["tflops"] / peak)


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
    columns = stage("attacks", 1)["rows"]
    for name, measured in columns.items():
        cells = []
        for figures in measured:
            low, high = figures["interval_95"]
            cells.append(f"{percent(figures['accuracy'])} ({percent(low)} to {percent(high)})")
        rows.append((name, *cells))
    return figures_table(("network", *(f"{row['title']}, %" for row in next(iter(columns.values())))), rows)


def resnet_table() -> str:
    """Return what the ResNet-18 withstands after each attack of AutoAttack."""
    rows = []
    for row in stage("attacks", 2)["rows"]["resnet-18"]:
        low, high = row["interval_95"]
        rows.append(
            (row["title"], percent(row["accuracy"]), f"{percent(low)} to {percent(high)}", str(row["pictures"]))
        )
    return figures_table(("after", "accuracy, %", "95 % interval", "pictures"), rows)


def recipes(minutes: float) -> dict[str, Any]:
    """Return the recipes that were compared at so many minutes of a core, by name."""
    for run in result("gpu_run")["runs"]:
        figures = run["stages"].get("recipes", {}).get("figures", {})
        if figures.get("core_minutes") == minutes and "uniform-ema" in figures["recipes"]:
            found: dict[str, Any] = figures["recipes"]
            return found
    raise KeyError(f"results/gpu_run.json has no recipes of {minutes:g} minutes")


def recipe_row(recipe: dict[str, Any], family: Family) -> dict[str, Any]:
    """Return the row of a recipe that this attack made, on what the attacks before it had left."""
    (row,) = (row for row in recipe["rows"] if RowId.from_dict(row["id"]).family == family)
    found: dict[str, Any] = row
    return found


def recipes_table(minutes: float) -> str:
    """Return the recipes that were trained for so many minutes of a core, the most robust first."""
    found = recipes(minutes)
    reference = recipe_row(found["uniform-ema"], "apgd-t")["right"]
    rows = []
    for name in sorted(found, key=lambda name: -found[name]["lowest"]):
        recipe = found[name]
        right = recipe_row(recipe, "apgd-t")["right"]
        more, fewer = (
            sum(a > b for a, b in zip(*pair, strict=True)) for pair in ((right, reference), (reference, right))
        )
        p_value = sign_test(more, fewer)
        told = "" if name == "uniform-ema" else f"{p_value:.2f}" if p_value >= 0.01 else "below 0.01"
        alone = (percent(recipe_row(recipe, family)["accuracy"]) for family in ("clean", "apgd-ce"))
        rows.append((name, recipe["about"], str(recipe["epochs"]), *alone, percent(recipe["lowest"]), told))
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


WINNER: dict[tuple[str, State], str] = {
    ("plain", "block off"): "plain, all of the time",
    ("block", "block on"): "trained whole, block on",
    ("block", "block off"): "the same, block off",
    ("frozen", "block on"): "block alone, block on",
    ("frozen", "block off"): "the same, block off",
}
"""Networks of the most robust recipe, by their reports in results/gpu_winner and their states."""


def winner_table() -> str:
    """Return what each network of the most robust recipe withstands of every attack."""
    reports = {name: result(f"gpu_winner/{name}") for name, _ in WINNER}
    found = {
        name: {(row.state, row.title): answers for row, answers in saved_rows(reports[name]).items()}
        for name in reports
    }
    lines = []
    for title in dict.fromkeys(title for rows in found.values() for _, title in rows):
        cells = [found[name].get((state, title)) for name, state in WINNER]
        lines.append([title, *("-" if row is None else percent(row.accuracy) for row in cells)])
    lowest = (percent(reports[name]["lowest"][state]) for name, state in WINNER)
    lines.append(["**lowest, per picture**", *(f"**{share}**" for share in lowest)])
    return figures_table(["accuracy, %", *WINNER.values()], lines)
