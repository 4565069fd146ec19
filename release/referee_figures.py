"""The figures of the referee's rows, and their table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from release.paired import anywhere, compare, in_words, run_on_one_only, withstood
from release.referee_rows import Contender
from sgn_serve.common.confidence import interval_95
from sgn_serve.common.markdown import table
from training.attacks.rows import AUTO_ATTACK_ROWS, CLEAN, RowFilter, RowId, any_matches
from training.evaluate.report import Report

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Judged:
    """A row, with what of its attacks is done.

    Attributes:
        contender: The row.
        report: Its report.
        cost: Multiplications of an answer, over those of a forward pass of the static network.
        missing: Titles of the attacks that are not done. They could only lower the row's figures.
    """

    contender: Contender
    report: Report
    cost: float
    missing: tuple[str, ...] = ()

    @property
    def is_shown(self) -> bool:
        """Whether the row belongs in the table: all of AutoAttack is done."""
        return self.report.auto_attack(self.contender.state) is not None


def figures(judged: Judged, static: Judged | None) -> dict[str, Any]:
    """Return a row's figures, and how it compares with the static network where that is done.

    Returns:
        name, about, trained, cost, clean, claimed, adaptive, lowest (accuracies with their 95 % intervals), by_attack,
        core_seconds, devices, missing and against_static: for clean, claimed and lowest the pictures won and lost, and
        the sign test's p.
    """
    contender, rows = judged.contender, judged.report.rows
    counted = {
        "clean": (CLEAN,),
        "claimed": (CLEAN, *AUTO_ATTACK_ROWS),
        "adaptive": tuple(RowFilter.exactly(row) for row in rows if row.kind == "clean" or is_adaptive(row)),
        "lowest": tuple(RowFilter.exactly(row) for row in rows),
    }
    found: dict[str, Any] = {
        "name": contender.name,
        "about": contender.about,
        "trained": contender.trained,
        "cost": round(judged.cost, 2),
    }
    for name, filters in counted.items():
        if name != "adaptive" or any(is_adaptive(row) for row in rows):
            found[name] = _accuracy(_right(judged, filters))
    found["by_attack"] = [
        {"id": row.as_dict(), "title": row.title, "accuracy": round(result.accuracy, 4)} for row, result in rows.items()
    ]
    seconds = [result.core_seconds for result in rows.values()]
    found["core_seconds"] = None if None in seconds else round(sum(one or 0.0 for one in seconds))
    found["devices"] = devices_of(judged.report)
    found["missing"] = list(judged.missing)
    if static is not None:
        others = run_on_one_only(rows, contender.state, static.report.rows, static.contender.state)
        fair = tuple(RowFilter.exactly(row) for row in {*rows, *static.report.rows} if anywhere(row) not in others)
        found["against_static"] = {
            name: compare(_right(judged, filters), _right(static, filters))
            for name, filters in {**counted, "lowest": fair}.items()
            if name != "adaptive"
        }
    return found


def devices_of(report: Report) -> list[str]:
    """Return the names of the devices that measured the rows of a report."""
    by_row = dict.fromkeys(report.rows, report.about["device"])
    by_row |= {row: entry.about["device"] for entry in report.earlier for row in entry.rows}
    return sorted(set(by_row.values()))


def is_adaptive(row: RowId) -> bool:
    """Tell whether a row exists only for a network with a defence: such an attack knows of its rule."""
    return row.needs_block and row.kind != "clean"


def _right(judged: Judged, filters: Iterable[RowFilter]) -> list[bool]:
    chosen = tuple(filters)
    return withstood(judged.report.rows, judged.contender.state, lambda row: any_matches(chosen, row))


def _accuracy(right: Sequence[bool]) -> dict[str, Any]:
    low, high = interval_95(sum(right), len(right))
    return {"accuracy": round(sum(right) / len(right), 4), "interval_95": [round(low, 4), round(high, 4)]}


def conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return which rows gain anything over the static network in one sentence, and in another which lose by it.

    A row that lacks attacks and is ahead so far is left out.
    """
    compared = [
        row for row in rows if "against_static" in row and not (row["missing"] and _is_significant(row, gained=True))
    ]
    if not compared:
        return "No defence is compared with the static network yet."
    gaining = [row for row in compared if _is_significant(row, gained=True)]
    losing = ", ".join(row["name"] for row in compared if _is_significant(row, gained=False))
    fewer = f" Significantly fewer, under more attacks: {losing}." if losing else ""
    ahead = [row["name"] for row in rows if "against_static" in row and row not in compared]
    if ahead:
        fewer += f" Not counted, for attacks are missing, but ahead so far: {', '.join(ahead)}."
    costs = sorted(row["cost"] for row in compared)
    price = f"{costs[0]:.1f}" if costs[0] == costs[-1] else f"{costs[0]:.1f} to {costs[-1]:.1f}"
    if not gaining:
        named = ", ".join(row["name"] for row in compared)
        return (
            f"None of {named} withstands significantly more pictures than the static network in it (p < "
            f"{SIGNIFICANT}), at {price} times the cost of an answer.{fewer}"
        )
    named = ", ".join(f"{row['name']} (at {row['cost']:.1f} times the cost)" for row in gaining)
    these = f"Of {len(compared)} defences these withstand significantly more than the static network in them"
    return f"{these}: {named}.{fewer}"


def _is_significant(row: Mapping[str, Any], *, gained: bool) -> bool:
    """Tell whether a row withstands significantly more pictures than the static network, or fewer."""
    lowest = row["against_static"]["lowest"]
    return bool(lowest["p"] < SIGNIFICANT and (lowest["won"] > lowest["lost"]) == gained)


def shown(result: Mapping[str, Any]) -> str:
    """Return the conclusion and the table of the rows that are done, as Markdown."""
    rows = result["rows"]
    lines = []
    for row in rows:
        against = row.get("against_static", {}).get("lowest")
        lines.append(
            (
                row["name"] + " ‡" * bool(row["missing"]),
                row["about"],
                row["trained"],
                f"{row['cost']:.1f}",
                _percent(row["clean"]),
                _percent(row["claimed"]),
                _percent(row.get("adaptive")),
                f"**{_percent(row['lowest'])}**",
                "{:.1f} to {:.1f}".format(*(100 * end for end in row["lowest"]["interval_95"])),
                "-" if against is None else in_words(against),
            )
        )
    header = ("row", "what it is", "trained for it", "cost", "clean", "claimed", "adaptive", "lowest", "95 % interval")
    setting = result["setting"]
    lacking = [f"{row['name']} lacks {', '.join(row['missing'])}" for row in rows if row["missing"]]
    bounds = f" ‡ Upper bounds: {'; '.join(lacking)}." if lacking else ""
    return (
        f"{conclusion(rows)}\n\n"
        + table((*header, "lowest against static"), lines, "lllrrrrrrl")
        + f"\n\nAccuracy in percent on {setting['pictures']:,} test pictures, L-inf budget "
        f"{255 * setting['eps']:g}/255, seed {setting['seed']}, one restart. "
        "Cost: multiplications of an answer over those of one forward pass. Claimed: AutoAttack on the whole. "
        f"Adaptive: what withstands every attack that knows the rule; some are run on what earlier ones left.{bounds}"
    )


def _percent(figure: Mapping[str, Any] | None) -> str:
    return "-" if figure is None else f"{100 * figure['accuracy']:.1f}"
