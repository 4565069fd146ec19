"""Look for signs that a robustness figure is too good to be true; docs/explanation/checklist.md explains each of them.

Source: Athalye et al., Obfuscated Gradients Give a False Sense of Security (2018); Carlini et al., On Evaluating
Adversarial Robustness (2019); AutoAttack's own warnings; and what this project found about self-gradient networks.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from training.attacks.rows import AUTO_ATTACK_ROWS, Kind, RowId, more_restarts_row, more_steps_row
from training.evaluate.diagnostics.accuracy_curve import LARGE
from training.evaluate.report import BATCH_DEPENDENCE, CURVE, GRADIENT_CORRELATION, RANDOMNESS, ZERO_GRADIENTS, Report

Verdict = Literal["ok", "suspect", "raised", "not measured", "does not apply"]

SUSPECT_CORRELATION = 0.97
MASKED_CORRELATION = 0.90
SAME_LOGITS = 1e-5
PGD_OVER_FGSM = 0.005
MORE_WORK = 0.01
SQUARE_FINDS = 0.002
TRANSFER_FINDS = 0.005
SMOOTH_FINDS = 0.01
LARGE_EPS_ACCURACY = 0.01

PLAIN_GRADIENT = "plain"
"""Name in Report.measured of the gradient that the paper's attacks and AutoAttack follow."""
BOTH_PASSES = "both passes"
"""Name in Report.measured of the gradient through both passes."""


@dataclass(frozen=True)
class Finding:
    """One item of the checklist.

    Attributes:
        name: The item.
        value: The measured value, None where there is none.
        threshold: When the item is raised, in words.
        verdict: The result.
        consequence: Whether a raised item makes the figures likely too high.
        detail: The rows that it is about, or the reason why there is no value.
    """

    name: str
    value: float | None
    threshold: str
    verdict: Verdict
    consequence: bool
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return every field, for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Return the finding as one line of text."""
        value = "-" if self.value is None else f"{self.value:.4g}"
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.verdict:>14}  {self.name}: {value}, {self.threshold}{detail}"


def smooth_gradient(beta: float, averaged: bool = False) -> str:
    """Return the name in Report.measured of the smooth surrogate's gradient, averaged over noise or not."""
    return f"smooth, beta {beta:g}" + ", averaged" * averaged


def gradient_of(row: RowId) -> str | None:
    """Return the name in Report.measured of the gradient that a row's attack follows; None where none is measured."""
    if row.kind not in ("white-box", "adaptive"):
        return None
    if row.view == "smooth" and row.beta is not None:
        return smooth_gradient(row.beta, row.averaged)
    return None if row.averaged else {"held": PLAIN_GRADIENT, "full": BOTH_PASSES}.get(row.view)


def of_consequence(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that make the figures likely too high."""
    return [finding for finding in findings if finding.verdict == "raised" and finding.consequence]


def likely_overestimated(findings: Iterable[Finding]) -> bool:
    """Tell whether a finding makes the figures likely too high."""
    return bool(of_consequence(findings))


def checklist(report: Report) -> list[Finding]:
    """Return every item, for the state in which the network is used (block on where there is one)."""
    rows = _Rows(report)
    findings = [
        _gradient(report, rows),
        _zero_gradients(report),
        _same_logits(report, "batch dependence", BATCH_DEPENDENCE),
        _same_logits(report, "randomness", RANDOMNESS),
        _label_leaking(rows),
        _pgd_against_fgsm(rows),
        _more_work(rows, "more steps", more_steps_row(rows.state)),
        _more_work(rows, "more restarts", more_restarts_row(rows.state)),
        _finds(rows, "black-box attacks", "black-box", SQUARE_FINDS),
        _finds(rows, "transfer attacks", "transfer", TRANSFER_FINDS),
        _smooth_surrogate(rows),
        _large_epsilon(report),
        _block_relevance(report),
        *_not_finite(report, rows),
    ]
    return [_with_a_number(finding) for finding in findings]


def _with_a_number(finding: Finding) -> Finding:
    """Raise a finding whose value is NaN or infinite: every comparison with NaN is false, which would pass for ok."""
    if finding.value is None or math.isfinite(finding.value):
        return finding
    detail = f"the measured value is {finding.value}" + (f"; {finding.detail}" if finding.detail else "")
    return replace(finding, value=None, verdict="raised", consequence=True, detail=detail)


class _Rows:
    """The rows of the state in which the network is used."""

    def __init__(self, report: Report):
        self.state = report.state_in_use()
        self.clean = RowId(self.state, "clean")
        self.withstood = {one: row.withstood for one, row in report.in_state(self.state).items()}

    def accuracy(self, row: RowId) -> float:
        bits = self.withstood[row]
        return bits.count("1") / len(bits)

    def of_kind(self, *kinds: Kind) -> list[RowId]:
        return [row for row in self.withstood if row.kind in kinds]

    def fell(self, rows: Iterable[RowId]) -> set[int]:
        """Return the indices of the pictures that at least one of the rows took."""
        return {index for row in rows for index, bit in enumerate(self.withstood[row]) if bit == "0"}

    def additional(self, rows: Iterable[RowId], baseline: Iterable[RowId]) -> float:
        """Return the share of all pictures that the rows took and the baseline (with clean) had left."""
        taken = self.fell(rows) - self.fell(baseline) - self.fell(self.of_kind("clean"))
        return len(taken) / len(next(iter(self.withstood.values())))


def _verdict(raised: bool) -> Verdict:
    return "raised" if raised else "ok"


def _missing(name: str, threshold: str, why: str, verdict: Verdict = "not measured") -> Finding:
    return Finding(name, None, threshold, verdict, False, why)


def _gradient(report: Report, rows: _Rows) -> Finding:
    name, threshold = "gradient correlation", f"masked under {MASKED_CORRELATION}, suspect under {SUSPECT_CORRELATION}"
    correlations = report.measured.get(GRADIENT_CORRELATION)
    if correlations is None:
        return _missing(name, threshold, "no gradients were measured")
    value = correlations[PLAIN_GRADIENT]
    followed = {gradient_of(row) for row in rows.withstood}
    best = max((number for view, number in correlations.items() if view in followed), default=value)
    verdict: Verdict = "ok"
    if value < SUSPECT_CORRELATION:
        verdict = "raised" if value < MASKED_CORRELATION else "suspect"
    others = ", ".join(
        f"{view} {number:.3f}" + " (no attack here follows it)" * (view not in followed)
        for view, number in correlations.items()
        if view != PLAIN_GRADIENT
    )
    # Masked gradients do not flatter the headline where an attack of the report has followed sound ones.
    return Finding(name, value, threshold, verdict, verdict == "raised" and best < SUSPECT_CORRELATION, others)


def _zero_gradients(report: Report) -> Finding:
    name, threshold = "zero gradients", "raised above 0, share of rightly classified pictures"
    shares = report.measured.get(ZERO_GRADIENTS)
    if shares is None:
        return _missing(name, threshold, "no gradients were measured")
    loss, value = max(shares.items(), key=lambda item: item[1])
    return Finding(name, value, threshold, _verdict(value > 0), True, f"loss: {loss}")


def _same_logits(report: Report, name: str, key: str) -> Finding:
    threshold = f"raised above {SAME_LOGITS:g}, relative change of the logits, median over pictures"
    value = report.measured.get(key)
    if value is None:
        return _missing(name, threshold, "no logits were compared")
    return Finding(name, value, threshold, _verdict(value > SAME_LOGITS), True)


def _label_leaking(rows: _Rows) -> Finding:
    name, threshold = "label leaking", "raised where an attacked accuracy is above the clean one"
    attacked = [row for row in rows.withstood if row != rows.clean]
    if rows.clean not in rows.withstood or not attacked:
        return _missing(name, threshold, "needs clean and attacked rows")
    row = max(attacked, key=rows.accuracy)
    value = rows.accuracy(row) - rows.accuracy(rows.clean)
    return Finding(name, value, threshold, _verdict(value > 0), True, f"highest: {row.title}")


def _pgd_against_fgsm(rows: _Rows) -> Finding:
    name, threshold = "PGD weaker than FGSM", f"raised above {PGD_OVER_FGSM:g}"
    fgsm = RowId(rows.state, "fgsm")
    steps = {row.steps: row for row in rows.withstood if row.family == "pgd" and row.is_plain}
    if fgsm not in rows.withstood or not steps:
        return _missing(name, threshold, "needs the rows FGSM and PGD")
    row = steps[max(count for count in steps if count is not None)]
    value = rows.accuracy(row) - rows.accuracy(fgsm)
    return Finding(name, value, threshold, _verdict(value > PGD_OVER_FGSM + 1e-9), True, f"{row.title} minus FGSM")


def _more_work(rows: _Rows, name: str, row: RowId) -> Finding:
    threshold = f"raised where it takes over {MORE_WORK:g} of the pictures"
    if row not in rows.withstood:
        return _missing(name, threshold, f"needs the row {row.title!r}: --attacks full")
    value = rows.withstood[row].count("0") / len(rows.withstood[row]) - (1 - rows.accuracy(rows.clean))
    return Finding(name, value, threshold, _verdict(value > MORE_WORK + 1e-9), True, row.title)


def _finds(rows: _Rows, name: str, kind: Kind, limit: float) -> Finding:
    threshold = f"raised where they take over {limit:g} of the pictures that white-box attacks left"
    found = rows.of_kind(kind)
    if not found:
        return _missing(name, threshold, "none was run: --attacks full")
    value = rows.additional(found, rows.of_kind("white-box", "adaptive"))
    return Finding(name, value, threshold, _verdict(value > limit + 1e-9), True, ", ".join(row.title for row in found))


def _smooth_surrogate(rows: _Rows) -> Finding:
    name, threshold = "smooth surrogate", f"raised where it takes over {SMOOTH_FINDS:g} off AutoAttack"
    adaptive = [row for row in rows.of_kind("adaptive") if row.view == "smooth"]
    if rows.state == "block off":
        return _missing(name, threshold, "the network has no block", "does not apply")
    if not adaptive:
        return _missing(name, threshold, "it was not run: --attacks full")
    whole = [[row for row in rows.withstood if one.matches(row)] for one in AUTO_ATTACK_ROWS]
    if all(whole):
        baseline, detail = [row for found in whole for row in found], "off AutoAttack"
    else:
        baseline, detail = rows.of_kind("white-box"), "AutoAttack was not run: off the white-box rows"
    value = rows.additional(adaptive, baseline)
    return Finding(name, value, threshold, _verdict(value > SMOOTH_FINDS + 1e-9), True, detail)


def _large_epsilon(report: Report) -> Finding:
    name, threshold = f"accuracy at eps {LARGE}/255", f"raised above {LARGE_EPS_ACCURACY:g}"
    curve = report.measured.get(CURVE, {})
    if str(LARGE) not in curve:
        return _missing(name, threshold, "it was not measured")
    value = curve[str(LARGE)]
    return Finding(name, value, threshold, _verdict(value > LARGE_EPS_ACCURACY + 1e-9), True)


def _block_relevance(report: Report) -> Finding:
    name, threshold = "block relevance", "raised at 0, share of answers that switching the block off changes"
    if report.state_in_use() == "block off":
        return _missing(name, threshold, "the network has no block", "does not apply")
    if report.block_effect is None:
        return _missing(name, threshold, "it was not measured")
    value = max(report.block_effect["answers_changed"], report.block_effect["answers_changed_attacked"])
    return Finding(name, value, threshold, _verdict(value == 0), False, "clean or PGD-10 pictures, whichever is more")


def _not_finite(report: Report, rows: _Rows) -> list[Finding]:
    """Return the item on logits that are NaN or infinite, where there were any, or where nobody counted them."""
    counts = {row: report.rows[row].not_finite for row in rows.withstood}
    shares = {row: count / len(rows.withstood[row]) for row, count in counts.items() if count}
    uncounted = ", ".join(row.title for row, count in counts.items() if count is None)
    unknown = f"not counted: {uncounted}" if uncounted else ""
    name = "finite answers"
    threshold = "raised above 0, share of pictures with a logit that is NaN or infinite, which counts as wrong"
    if not shares:
        return [_missing(name, threshold, unknown)] if uncounted else []
    row = max(shares, key=shares.__getitem__)
    detail = f"most: {row.title}" + (f"; {unknown}" if unknown else "")
    return [Finding(name, shares[row], threshold, "raised", False, detail)]
