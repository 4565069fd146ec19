"""The learning rate over the course of training, and how far a run with a time budget is."""

import pytest

from training.config import TrainConfig
from training.loop.schedule import epochs_after, learning_rate, lengthened_schedule


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0, 1), (9.99, 1), (10, 0.1), (19.5, 0.1), (20, 0.01), (30, 0.01)],
)
def test_steps_at_the_milestones(progress, factor):
    config = TrainConfig("cifar10", lr=0.4, lr_schedule="step", lr_milestones=(10, 20), lr_decay=0.1, epochs=30)
    assert learning_rate(config, progress) == pytest.approx(0.4 * factor)


@pytest.mark.parametrize(("progress", "factor"), [(0, 0), (1, 0.5), (2, 1), (6, 0.5), (10, 0), (10.1, 0)])
def test_a_cycle_rises_and_falls_in_straight_lines(progress, factor):
    config = TrainConfig("cifar10", lr=0.4, lr_schedule="cyclic", lr_warmup=0.2, epochs=10)
    assert learning_rate(config, progress) == pytest.approx(0.4 * factor)


def test_more_epochs_are_told_in_words():
    config = TrainConfig("cifar10", lr_schedule="cyclic", epochs=4)
    assert lengthened_schedule(config, 1, 1).startswith("1 epoch becomes 4: the cyclic schedule is laid anew over all")
    assert lengthened_schedule(config, 3, 3).startswith("3 epochs become 4: the cyclic schedule is laid anew over all")


def test_a_cycle_without_warm_up_begins_at_the_top():
    config = TrainConfig("cifar10", lr=0.4, lr_schedule="cyclic", lr_warmup=0.0, epochs=10)
    assert learning_rate(config, 0) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("seconds", "reserved", "epochs"),
    [(0, 0, 0), (60, 0, 5), (60, 60, 10), (120, 0, 10), (500, 0, 10), (1, 120, 10)],
)
def test_a_time_budget_is_used_up_before_its_last_validation(seconds, reserved, epochs):
    config = TrainConfig("cifar10", epochs=10, minutes=2)
    assert epochs_after(config, seconds, reserved) == pytest.approx(epochs)
