"""A small report of training.evaluate."""

from typing import Any, cast

import torch

from training.attacks.base import AttackOn
from training.attacks.exported_graph import OnExportedGraph
from training.attacks.gradient_attack import clean_attack, pgd_attack
from training.evaluate.report import Report

EPS = 8 / 255


def report_of(checkpoint_sha256: str, graph_sha256: str = "", eps: float = EPS) -> Report:
    """Return a report of four pictures: three right, two that withstand PGD, one that withstands it on the graph."""
    setting: dict[str, Any] = {
        "checkpoint_sha256": checkpoint_sha256, "data": "made up", "split": "test", "pictures": 4, "norm": "L-inf",
        "eps": eps, "restarts": 1, "seed": 0,
    }  # fmt: skip
    report = Report(setting, {"command": "python -m training.evaluate", "date": "2026-11-26", "git_commit": "abc"})
    attacks: list[tuple[AttackOn[Any], list[bool]]] = [
        (clean_attack(), [True, True, True, False]),
        (pgd_attack(20), [True, True, False, False]),
        (clean_attack(block=False), [True, True, True, True]),
    ]
    if graph_sha256:
        attacks.append((OnExportedGraph(cast(Any, pgd_attack(20)), graph_sha256), [True, False, False, False]))
    for attack, right in attacks:
        report.add(attack, torch.tensor(right))
    report.likely_overestimated = False  # said at the end of an evaluation
    return report
