"""Write a robustness report for people: figures, checklist and plots as one Markdown page."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.common.markdown import table
from training.evaluate.checklist import Finding, of_consequence
from training.evaluate.report import Report

OVERESTIMATED = "robustness likely overestimated"


def headline_sentence(report: Report) -> str:
    """Return the lowest accuracy per picture with its confidence interval, in words."""
    low, high = report.headline_interval()
    return (
        f"lowest accuracy per picture: {report.headline():.1%} "
        f"(95 % confidence interval {100 * low:.1f} to {100 * high:.1f} %, {report.pictures():,} pictures)"
    )


def warning(findings: Sequence[Finding]) -> str | None:
    """Return one line that names the raised items that matter for the figures, None where there are none."""
    names = [finding.name for finding in of_consequence(findings)]
    if not names:
        return None
    return f"{OVERESTIMATED}: {', '.join(names)} (docs/explanation/checklist.md says what each means)"


def page(report: Report, findings: Sequence[Finding], plots: Sequence[str]) -> str:
    """Return the Markdown page; `plots` are file names beside it."""
    setting = report.setting
    items = [
        [
            finding.verdict,
            finding.name,
            "-" if finding.value is None else f"{finding.value:.4g}",
            finding.threshold,
            finding.detail,
        ]
        for finding in findings
    ]
    lines = [
        f"# Robustness of {setting.get('architecture', 'a network')}, {setting.get('method', '')}",
        "",
        f"{setting.get('data', '')}, {setting.get('split', '')} split, {setting.get('pictures', 0):,} pictures, seed "
        f"{setting.get('seed', 0)}, {setting.get('norm', 'L-inf')} epsilon {255 * setting.get('eps', 0.0):g}/255.",
        "",
        f"**{headline_sentence(report)}.** {(warning(findings) or '').capitalize()}".rstrip(),
        "",
        report.table(),
        "",
        "† run only on the pictures that earlier rows had left; the figure is what was left after it.",
        "",
        "## Masking checklist",
        "",
        table(["verdict", "item", "measured", "threshold", "about"], items, "llrll"),
    ]
    for name, iteration in report.measured.get("convergence", {}).items():
        lines += ["", _convergence_sentence(name, iteration)]
    for plot in plots:
        title = plot.removesuffix(".png").replace("_", " ")
        lines += ["", f"![{title}]({plot})"]
    lines += [
        "",
        f"Command: `{report.about.get('command', '')}`, commit {report.about.get('git_commit') or 'unknown'}.",
    ]
    for entry in report.earlier:
        lines += ["", _earlier_sentence(len(entry.rows), entry.about)]
    return "\n".join(lines) + "\n"


def _earlier_sentence(rows: int, about: Mapping[str, Any]) -> str:
    return (
        f"Measured earlier, {rows} of the rows (`earlier` in the JSON names them): `{about.get('command', '')}`, "
        f"commit {about.get('git_commit') or 'unknown'}."
    )


def _convergence_sentence(name: str, iteration: dict[str, float]) -> str:
    keeps = "keeps to" if iteration["within_bound"] else "does not keep to"
    return (
        f"Iterated correction ({name}): the last iteration still moves the gradient by {iteration['left_over']:.1%} of "
        f"the first one's step; it {keeps} the bound of theorem 1's proof with epsilon {iteration['epsilon']:.3g}."
    )
