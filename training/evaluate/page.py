"""Write a robustness report for people: figures, checklist and plots as one Markdown page."""

from collections.abc import Mapping, Sequence
from typing import Any

from sgn_serve.common.markdown import table
from training.evaluate.checklist import Finding, of_consequence
from training.evaluate.report import CONVERGENCE, SLOW_DOWN, Report

WHOLE_FOLDER = "whole_folder"
"""Entry of a report's `about`: whether the pictures are those of a folder that nothing divides into splits."""
OVERESTIMATED = "robustness likely overestimated"
AUTO_TOLERANCE = 0.003
"""Most by which auto's lowest accuracy may be under that of block on and off, for auto to be offered as a default."""


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


def summary(report: Report, findings: Sequence[Finding]) -> str:
    """Return the report as text: the pictures, the table, the headline, the block's effect and the checklist."""
    lines = [_pictures_sentence(report), "", report.table(), "", headline_sentence(report)]
    if report.block_effect is not None:
        effect = report.block_effect
        lines.append(
            f"block: moves a pixel by {255 * effect['correction_mean_abs']:.2f}/255 on average; off, "
            f"{effect['answers_changed']:.1%} of the answers change, "
            f"{effect['answers_changed_attacked']:.1%} of those on PGD-10 pictures"
        )
    lines += auto_sentences(report)
    lines += ["", "masking checklist:", *(finding.line() for finding in findings)]
    overestimated = warning(findings)
    if overestimated:
        lines += ["", overestimated]
    return "\n".join(lines)


def auto_sentences(report: Report) -> list[str]:
    """Return what is told about self_gradient=auto beside its column; [] where it was not judged."""
    sentences = []
    difference = report.auto_difference()
    if difference is not None:
        points = f"auto: lowest accuracy {100 * abs(difference):.1f} points"
        verdict = "no more than" if difference <= AUTO_TOLERANCE else "MORE than"
        sentences.append(
            f"{points} over the lower of block on and off, so it may be a default"
            if difference < 0
            else f"{points} under the lower of block on and off, {verdict} the {100 * AUTO_TOLERANCE:g} points up to "
            "which it may be a default"
        )
    slow = report.measured.get(SLOW_DOWN)
    if slow is not None:
        each, same = (max(0, slow[name]) for name in ("per_picture_taken", "universal_taken"))
        sentences.append(
            f"auto: second pass for {slow['second_pass']:.1%} of the pictures; an attack on the saving makes it "
            f"{slow['per_picture']:.1%} (a perturbation each: {each:.0%} of the saving), one perturbation for all "
            f"{slow['universal']:.1%} ({same:.0%})"
        )
    return sentences


def _pictures_sentence(report: Report) -> str:
    setting = report.setting
    pictures = f"{report.pictures()} pictures"
    return _joined(setting.get("data"), _split(report), pictures, f"L-inf eps {setting['eps']:.4f}")


def _split(report: Report) -> str | None:
    """Return which split was judged, in words; None where nothing divides the pictures."""
    split = report.setting.get("split")
    return f"{split} split" if split and not report.about.get(WHOLE_FOLDER) else None


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


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
        _joined(f"# Robustness of {setting.get('architecture', 'a network')}", setting.get("method")),
        "",
        _joined(
            setting.get("data"),
            _split(report),
            f"{setting.get('pictures', 0):,} pictures",
            f"seed {setting.get('seed', 0)}",
            f"{setting.get('norm', 'L-inf')} epsilon {255 * setting.get('eps', 0.0):g}/255.",
        ),
        "",
        f"**{headline_sentence(report)}.** {(warning(findings) or '').capitalize()}".rstrip(),
        "",
        report.table(),
        "",
        "† run only on the pictures that earlier rows had left; the figure is what was left after it.",
        "",
        *(part for sentence in auto_sentences(report) for part in (sentence, "")),
        "## Masking checklist",
        "",
        table(["verdict", "item", "measured", "threshold", "about"], items, "llrll"),
    ]
    for name, iteration in report.measured.get(CONVERGENCE, {}).items():
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
    if report.earlier:
        lines += ["", "Each command runs at the commit beside it. Later commits may lack its options."]
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
