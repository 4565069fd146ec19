"""The batches of a report are the same, and so is what is left, whatever the order in which they are attacked."""

import hashlib
import random
from typing import Any

import pytest

from training.attacks.base import AttackOn
from training.attacks.registry import Context, build_attacks
from training.evaluate.measuring import BatchResult
from training.evaluate.report import Report
from training.evaluate.row_plan import Batch, RowPlan

PICTURES, BATCH_SIZE, CLASSES = 40, 7, 10
ATTACKS: list[AttackOn[Any]] = build_attacks(
    ["fgsm", "autoattack", "restarts", "more-steps", "averaged-smooth"],
    Context(8 / 255, has_block=True, classes=CLASSES, betas=(20.0,)),
)


def result_of(batch: Batch) -> BatchResult:
    """Return marks that depend on the attack and on all pictures of the batch, and on nothing else."""
    marks = [
        "1" if hashlib.sha256(repr((batch, picture)).encode()).digest()[0] < 200 else "0" for picture in batch.pictures
    ]
    return BatchResult("".join(marks), 0.5)


def run(at_once: int, seed: int, *, longest_first: bool = False) -> tuple[Report, list[Batch]]:
    """Return the report and the batches, in the order in which they began, with so many of them at once."""
    report, begun = Report({"pictures": PICTURES}), []
    draw = random.Random(seed)
    for chosen in ([attack for attack in ATTACKS if attack.id.family == "clean"], ATTACKS):
        plan = RowPlan(report, ATTACKS, chosen, PICTURES, BATCH_SIZE)
        if longest_first:
            plan.put_longest_first(CLASSES)
        running: list[Batch] = []
        while plan.rows:
            while len(running) < at_once and (batch := plan.next_batch()) is not None:
                running.append(batch)
                begun.append(batch)
            for row in plan.finished():
                attacked = row.attacked
                report.add(row.attack, row.right, None if attacked.all() else attacked, row.core_seconds)
            if running:
                batch = running.pop(draw.randrange(len(running)))
                plan.row_of(batch).take(batch, result_of(batch))
    return report, begun


@pytest.mark.parametrize("longest_first", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_batches_changes_nothing(seed: int, longest_first: bool) -> None:
    alone, in_turn = run(1, 0)
    together, mixed = run(6, seed, longest_first=longest_first)
    assert list(together.rows) == list(alone.rows) == [attack.id for attack in ATTACKS]
    assert together.as_dict() == alone.as_dict()
    assert sorted(mixed, key=repr) == sorted(in_turn, key=repr)
    assert mixed != in_turn


def test_in_turn_the_rows_are_attacked_one_after_the_other() -> None:
    report, begun = run(1, 0)
    rows = [batch.row for batch in begun]
    assert rows == sorted(rows)
    for number, attack in enumerate(ATTACKS):
        batches = [batch.pictures for batch in begun if batch.row == number]
        marks = report.rows[attack.id].withstood
        pictures = [picture for batch in batches for picture in batch]
        assert pictures == sorted(set(pictures))
        assert {len(batch) for batch in batches[:-1]} <= {BATCH_SIZE}
        assert {number for number, mark in enumerate(marks) if mark == "1"} <= set(pictures)
        assert ("-" in marks) <= bool(attack.survivors_of)


def test_the_longest_way_is_attacked_first() -> None:
    begun = run(1, 0, longest_first=True)[1]
    families = [(ATTACKS[batch.row].id.state, ATTACKS[batch.row].id.family) for batch in begun]
    assert families[0][1] == "clean"
    for state in ("block on", "block off"):
        of_state = [family for one, family in families if one == state]
        # A row that others wait for comes before them, and one that nobody waits for after all that take longer.
        chain = [of_state.index(family) for family in ("clean", "apgd-ce", "apgd-t", "square", "fgsm")]
        assert chain == sorted(chain)
    assert families[-1][1] == "fgsm"


def test_survivors_flow_on_before_the_row_before_is_done() -> None:
    costly = next(number for number, attack in enumerate(ATTACKS) if attack.id.family == "apgd-t")
    state = ATTACKS[costly].id.state
    before = next(number for number, one in enumerate(ATTACKS) if one.id.family == "apgd-ce" and one.id.state == state)
    plan = RowPlan(Report({}), ATTACKS, ATTACKS, PICTURES, BATCH_SIZE)
    rows = {row.number: row for row in plan.rows}
    assert rows[costly].next_batch() is None
    while (batch := plan.next_batch()) is not None:
        plan.row_of(batch).take(batch, BatchResult("1" * len(batch.pictures), 0.0))
        if batch.row == before:
            break
    assert not rows[before].is_done
    assert rows[costly].next_batch() == Batch(costly, tuple(range(BATCH_SIZE)))
    assert rows[costly].next_batch() is None
