"""A robustness report for people: the figures, the checklist and the plots as one Markdown page."""

from collections.abc import Sequence
from typing import Any

from training.evaluate.checklist import Finding, of_consequence
from training.evaluate.report import Report

OVERESTIMATED = "robustness likely overestimated"


def headline_sentence(report: Report) -> str:
    low, high = report.headline_interval()
    pictures = len(next(iter(report.withstood.values())))
    return (
        f"lowest accuracy per picture: {report.headline():.1%} "
        f"(95 % confidence interval {100 * low:.1f} to {100 * high:.1f} %, {pictures:,} pictures)"
    )


def warning(findings: Sequence[Finding]) -> str | None:
    """One line that names the flags of consequence, None where none is raised."""
    names = [finding.name for finding in of_consequence(findings)]
    if not names:
        return None
    return f"{OVERESTIMATED}: {', '.join(names)} (docs/robustness.md says what each means)"


def page(report: Report, findings: Sequence[Finding], plots: Sequence[str]) -> str:
    """The Markdown page; `plots` are file names beside it."""
    setting = report.setting
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
        "| verdict | item | measured | threshold | about |",
        "| --- | --- | ---: | --- | --- |",
    ]
    for finding in findings:
        value = "-" if finding.value is None else f"{finding.value:.4g}"
        lines.append(f"| {finding.verdict} | {finding.name} | {value} | {finding.threshold} | {finding.detail} |")
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
        lines += ["", _earlier_sentence(len(entry["rows"]), entry["about"])]
    return "\n".join(lines) + "\n"


def _earlier_sentence(rows: int, about: dict[str, Any]) -> str:
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
