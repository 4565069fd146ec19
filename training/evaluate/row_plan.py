"""Divide rows of a report into batches of pictures, and collect their results, whoever attacks them in what order.

A row attacks the survivors of some rows before it. Its batches are filled in the order of the pictures, as soon as
these rows have decided enough of them. So the batches are the same however many of them are attacked at once.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.attacks.base import AttackOn
from training.attacks.rows import any_matches
from training.evaluate.measuring import BatchResult
from training.evaluate.report import Report


@dataclass(frozen=True)
class Batch:
    """Pictures that one attack is run on at once.

    Attributes:
        row: The number of the attack, from 0, in the list of all.
        pictures: Indices of the pictures, in rising order.
    """

    row: int
    pictures: tuple[int, ...]


class PlannedRow:
    """A row that is being measured.

    Args:
        number: The number of its attack, from 0, in the list of all.
        attack: The attack.
        allowed: Which pictures the rows of the report leave to it, (N) bool.
        sources: The planned rows whose survivors it attacks.
        batch_size: Pictures that are attacked at once.

    Attributes:
        core_seconds: Processor time of its batches so far.
        not_finite: Number of its pictures so far with a logit that is NaN or infinite.
        done: Number of pictures whose result is there.
        calls_ahead: Network calls on a picture that withstands it and, one after the other, the rows that wait for it.
            0 until they are counted.
    """

    def __init__(
        self,
        number: int,
        attack: AttackOn[Any],
        allowed: Tensor,
        sources: Sequence["PlannedRow"],
        batch_size: int,
    ):
        self.number = number
        self.attack = attack
        self.core_seconds = 0.0
        self.not_finite = 0
        self.done = 0
        self.calls_ahead = 0
        self._allowed: list[bool] = allowed.tolist()
        self._sources = sources
        self._batch_size = batch_size
        self._right: list[bool | None] = [None] * len(allowed)
        self._attacked: list[int] = []
        self._considered = 0
        self._in_batches = 0

    def count_calls(self, classes: int) -> None:
        """Set calls_ahead, given that those of every row after it are set, or that none waits for it.

        Args:
            classes: Number of classes.
        """
        self.calls_ahead += self.attack.network_calls(classes)
        for row in self._sources:
            row.calls_ahead = max(row.calls_ahead, self.calls_ahead)

    @property
    def most(self) -> int:
        """The largest number of pictures that it may attack, by what is known."""
        return len(self._attacked) + sum(self._allowed[self._considered :])

    @property
    def is_done(self) -> bool:
        """Whether the result of every picture is there."""
        return self._considered == len(self._right) and self.done == len(self._attacked)

    @property
    def right(self) -> Tensor:
        """Which pictures are left after it, (N) bool. The row must be done."""
        return torch.tensor([value is True for value in self._right])

    @property
    def attacked(self) -> Tensor:
        """Which pictures it has attacked, (N) bool. The row must be done."""
        mask = torch.zeros(len(self._right), dtype=torch.bool)
        mask[self._attacked] = True
        return mask

    def next_batch(self) -> Batch | None:
        """Return the next batch, None where too few pictures are decided."""
        self._consider()
        pictures = self._attacked[self._in_batches : self._in_batches + self._batch_size]
        if not pictures or (len(pictures) < self._batch_size and self._considered < len(self._right)):
            return None
        self._in_batches += len(pictures)
        return Batch(self.number, tuple(pictures))

    def take(self, batch: Batch, result: BatchResult) -> None:
        """Take the result of a batch."""
        for picture, mark in zip(batch.pictures, result.withstood, strict=True):
            self._right[picture] = mark == "1"
        self.done += len(batch.pictures)
        self.core_seconds += result.core_seconds
        self.not_finite += result.not_finite

    def _consider(self) -> None:
        """Decide which of the next pictures are attacked, as far as the rows before have decided them."""
        while self._considered < len(self._right):
            picture = self._considered
            before = [row._right[picture] for row in self._sources]
            if any(value is None for value in before):
                return
            if self._allowed[picture] and all(before):
                self._attacked.append(picture)
            else:
                self._right[picture] = False
            self._considered += 1


class RowPlan:
    """The rows that a report still lacks.

    Args:
        report: The report. Its rows are not changed, and not looked at later.
        attacks: All attacks, which number the rows.
        chosen: Those that are run now. Those whose rows are there are left out.
        pictures: Number of pictures.
        batch_size: Pictures that are attacked at once.

    Attributes:
        rows: The planned rows that were not given out as finished, in the order of the attacks.
    """

    def __init__(
        self,
        report: Report,
        attacks: Sequence[AttackOn[Any]],
        chosen: Collection[AttackOn[Any]],
        pictures: int,
        batch_size: int,
    ):
        self.rows: list[PlannedRow] = []
        for number, attack in enumerate(attacks):
            if attack.id in report.rows or attack not in chosen:
                continue
            sources = [
                row
                for row in self.rows
                if row.attack.id.state == attack.id.state and any_matches(attack.survivors_of, row.attack.id)
            ]
            self.rows.append(PlannedRow(number, attack, report.survivors(attack, pictures), sources, batch_size))
        self._by_number = {row.number: row for row in self.rows}

    def put_longest_first(self, classes: int) -> None:
        """Order rows by the number of network calls that wait for them, largest first.

        Quick batches are left for the end then, so that workers which attack side by side end at about the same time.

        Args:
            classes: Number of classes.
        """
        for row in reversed(self.rows):
            row.count_calls(classes)

    def next_batch(self) -> Batch | None:
        """Return a batch of the first row that has one ready, None where all wait for results."""
        for row in sorted(self.rows, key=lambda row: -row.calls_ahead):
            batch = row.next_batch()
            if batch is not None:
                return batch
        return None

    def row_of(self, batch: Batch) -> PlannedRow:
        """Return the row that a batch is of."""
        return self._by_number[batch.row]

    def finished(self) -> Iterator[PlannedRow]:
        """Yield each finished row once, in the order of the attacks."""
        while self.rows and self.rows[0].is_done:
            yield self.rows.pop(0)
