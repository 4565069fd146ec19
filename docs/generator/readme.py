"""Write the README's table of results between its two marker lines.

python -m docs.generator.readme
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.engines.auto_mode import Contender
from docs.generator.markdown import figures_table
from docs.generator.results import percent, result
from release.bundle import SYSTEMS, summary
from training.attacks.rows import RowId

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
SHOWN = ("longer", "pgd", "standard")
"""The baselines that the README shows beside the bundled network."""
LOWEST = "lowest accuracy per picture"
AUTO_TITLE = "the same, auto"
AUTO_CHOSEN = Contender("openvino", "bf16", "auto").name
"""The row of results/engines.json that SGN_ENGINE=auto chooses where it can."""


def five_rows(figures: Mapping[str, Any]) -> str:
    """Return the table, and the note below it, in Markdown.

    Args:
        figures: what model.json holds
    """
    baselines = [figures["baselines"][name] for name in SHOWN]
    minutes = figures["training_core_minutes"]
    latency = result("block_cost")["latency"]["1"]
    on = f"{latency['block_on_ms']:.1f} ({latency['ratio']:.1f})"
    off = f"{latency['block_off_ms']:.1f} (1)"
    auto = auto_column(figures, result("auto"), result("engines").get("auto"))
    rows = [
        _row("clean, %", figures, baselines, "clean"),
        _row("PGD-20, %", figures, baselines, "PGD-20"),
        (
            "AutoAttack, %",
            *(percent(figures["auto_attack"][f"block {state}"]) for state in ("on", "off")),
            *(_auto_attack(one) for one in baselines),
        ),
        (
            "**lowest, %**",
            f"**{percent(figures['headline'][LOWEST])}**",
            f"**{percent(figures['lowest']['block off'])}**",
            *(f"**{percent(one['headline'][LOWEST])}**" for one in baselines),
        ),
        (
            "cost: training, core-minutes; one answer, ms (plain passes)",
            f"{minutes['self-gradient']:.0f}; {on}",
            f"{minutes['self-gradient']:.0f}; {off}",
            *(f"{minutes[name]:.0f}; {off}" for name in SHOWN),
        ),
    ]
    titles = ("", "self-gradient, block on", "the same, block off", *(SYSTEMS[name] for name in SHOWN))
    if auto is not None:
        titles = (*titles[:2], AUTO_TITLE, *titles[2:])
        rows = [(*row[:2], cell, *row[2:]) for row, cell in zip(rows, auto, strict=True)]
    return figures_table(titles, rows)


def auto_column(
    figures: Mapping[str, Any], attacked: Mapping[str, Any], engines: Mapping[str, Any] | None
) -> tuple[str, ...] | None:
    """Return the cells of self_gradient=auto, None where its cost at batch 1 was not measured.

    Accuracies that were measured on fewer pictures than the others are left out.

    Args:
        figures: what model.json holds
        attacked: results/auto.json
        engines: the entry auto of results/engines.json, if there is one
    """
    cost = {} if engines is None else engines["batches"].get("1", {}).get(AUTO_CHOSEN, {})
    if "best_ms" not in cost:
        return None
    found = attacked.get("attacked", {})
    same = found.get("pictures") == figures["setting"]["pictures"]
    left = {RowId.from_dict(row["id"]): percent(row["left"]) for row in found["rows"]} if same else {}
    return (
        *(left.get(row, "-") for row in (RowId("auto", "clean"), RowId("auto", "pgd", 20))),
        "-",
        f"**{percent(found['lowest']['auto'])}**" if same else "-",
        f"{figures['training_core_minutes']['self-gradient']:.0f}; {cost['best_ms']:.1f} ({cost['ratio_of_best']:.1f})",
    )


def _row(title: str, figures: Mapping[str, Any], baselines: list[Any], attack: str) -> tuple[str, ...]:
    own = (percent(_rows(figures)[f"block {state}: {attack}"]) for state in ("on", "off"))
    return (title, *own, *(percent(_rows(one)[f"block off: {attack}"]) for one in baselines))


def _rows(figures: Mapping[str, Any]) -> dict[str, float]:
    return {RowId.from_dict(row["id"]).label: row["accuracy"] for row in figures["rows"]}


def _auto_attack(baseline: Mapping[str, Any]) -> str:
    """Return what AutoAttack left; with a mark, what its first three left where Square was not run."""
    if baseline["auto_attack"]:
        return percent(baseline["auto_attack"]["block off"])
    first_three = _rows(baseline).get("block off: FAB-T")
    return "-" if first_three is None else f"{percent(first_three)} †"


def section(text: str) -> str:
    """Return what stands between the markers of a README."""
    return text.split(BEGIN)[1].split(END)[0].strip()


def main() -> int:
    """Rewrite README.md's table; return the exit status."""
    text = README.read_text()
    before, rest = text.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{five_rows(summary())}\n{END}{rest.split(END)[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
