"""The estimate of the time left follows a run whose every step takes a known time, by a clock that is set by hand."""

from itertools import pairwise

import pytest

from training.loop.time_left import TimeLeft, Work

VALIDATION = {"clean": 20.0, "pgd10": 120.0, "cw10": 120.0}
PICTURES, BATCH = 200, 10
SAVING = 2.0


class Clock:
    """A clock that somebody else turns."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A run of known speed. It keeps the time at which each estimate was made."""

    def __init__(self, epochs: int, a_pass: float = 0.01, first_batch: float = 0.0, first_epoch: int = 0):
        self.clock = Clock()
        self.left = TimeLeft(Work(epochs, PICTURES, VALIDATION), first_epoch, clock=self.clock)
        self.a_pass, self.first_batch, self.first_epoch = a_pass, first_batch, first_epoch
        self.estimates: list[tuple[float, float | None]] = []
        self.positions: list[float] = []
        self.ends_of_epochs: list[float] = []

    def look(self) -> None:
        self.estimates.append((self.clock.now, self.left.seconds()))
        self.positions.append(self.left.position())

    def train(self) -> None:
        for batch in range(1, PICTURES // BATCH + 1):
            self.clock.now += 0.5 + self.first_batch
            self.first_batch = 0.0
            self.left.work.passes_of_picture = 4
            self.left.reached(batch * BATCH / PICTURES)
            self.look()

    def validate(self) -> None:
        self.left.begin("validation")
        done = 0
        while done < sum(VALIDATION.values()):
            done += 20
            self.clock.now += 20 * self.a_pass
            self.left.reached(done / sum(VALIDATION.values()))
            self.look()

    def save(self) -> None:
        self.left.begin("saving")
        self.look()
        self.clock.now += SAVING
        self.left.epoch_done()
        self.look()
        self.ends_of_epochs.append(self.clock.now)

    def whole(self) -> "Run":
        while self.left.epochs_done < self.left.work.epochs:
            self.train()
            self.validate()
            self.save()
        return self

    def errors(self, since: float) -> list[float]:
        """Return how far the estimates after a moment are from the truth, in shares of the whole run's time."""
        end = self.clock.now
        known = [(now, left) for now, left in self.estimates if now >= since and left is not None]
        assert len(known) == sum(now >= since for now, _ in self.estimates)
        return [abs(left - (end - now)) / (end - 500) for now, left in known]


@pytest.mark.parametrize("a_pass", [0.002, 0.01, 0.1], ids=["cheap", "as training", "costly"])
@pytest.mark.parametrize("first_batch", [0.0, 30.0], ids=["", "slow start"])
def test_it_settles_within_an_epoch(a_pass, first_batch):
    run = Run(6, a_pass, first_batch).whole()
    assert max(run.errors(run.ends_of_epochs[0])) < 0.001


def test_the_first_batches_tell_the_length_where_validation_costs_what_training_does():
    run = Run(3, a_pass=0.5 / BATCH / 4).whole()
    # Saving alone is not known yet.
    assert max(run.errors(502)) < 1.1 * 3 * SAVING / (run.clock.now - 500)


def test_a_slow_first_batch_is_not_taken_for_the_speed():
    run = Run(3, a_pass=0.5 / BATCH / 4, first_batch=60).whole()
    now, left = run.estimates[1]
    assert left == pytest.approx(run.clock.now - now - 3 * SAVING, rel=0.01)


def test_the_validation_is_part_of_what_is_left_from_the_first_batch():
    costly = {"pgd10": 100_000.0}
    clock = Clock()
    left = TimeLeft(Work(1, PICTURES, costly, 4), clock=clock)
    assert left.seconds() is None
    clock.now += 0.5
    left.reached(BATCH / PICTURES)
    assert left.seconds() == pytest.approx(9.5 + 100_000 * 0.5 / BATCH / 4)


def test_the_position_rises_from_0_to_1_and_the_validation_moves_it():
    run = Run(3).whole()
    assert all(earlier <= later for earlier, later in pairwise(run.positions))
    assert run.positions[-1] == 1
    an_epoch = PICTURES * 4 + sum(VALIDATION.values())
    assert run.positions[PICTURES // BATCH - 1] == pytest.approx(PICTURES * 4 / an_epoch / 3)
    assert run.left.seconds() == 0


def test_time_passes_between_two_reports():
    run = Run(2)
    run.train()
    run.clock.now += 0.7
    run.left.begin("validation")
    run.left.reached(0.5)
    known = run.left.seconds()
    assert known is not None
    run.clock.now += 0.3
    assert run.left.seconds() == pytest.approx(known - 0.3)


def test_a_resumed_run_knows_what_the_state_says():
    clock = Clock()
    left = TimeLeft(Work(10, PICTURES, VALIDATION), 4, clock=clock)
    left.knows("validation", 40.0)
    left.skip_training(10.0)
    assert left.seconds() == pytest.approx(40 + 5 * 50)
    assert 0.4 < left.position() < 0.5
    left.begin("validation")
    clock.now += 20
    left.reached(0.5)
    assert left.seconds() == pytest.approx(20 + 5 * 50)


def test_a_time_budget_says_what_is_left_of_it():
    clock = Clock()
    left = TimeLeft(Work(200, PICTURES, VALIDATION), 2, budget=600, used=150, clock=clock)
    assert left.seconds() == 450
    assert left.position() == pytest.approx(0.25)
    clock.now += 450
    assert left.seconds() == 0
    assert left.position() == 1
    clock.now += 10
    assert left.seconds() == 0
