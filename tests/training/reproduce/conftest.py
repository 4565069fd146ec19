"""Runs that are made in this process."""

from dataclasses import replace

import pytest

from tests.short_attacks import shorten_gradient_attacks
from training import command as train
from training.evaluate import command as evaluate
from training.reproduce.experiment import Experiment
from training.reproduce.systems import BUDGETS

IN_A_PROCESS = Experiment._python
"""Runs a command as users get it."""


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, short_attacks: None) -> list[list[str]]:
    """Runs what would be processes of their own here, where small archives pass torchvision's check; returns them.

    They attack fewer pictures than the budget says, in fewer steps: which figures there are does not depend on that.
    """
    smoke = BUDGETS["smoke"]
    monkeypatch.setitem(BUDGETS, "smoke", replace(smoke, pictures=6, flags=(*smoke.flags, "--validation-attacked=4")))
    mains = {"training": train.main, "training.evaluate": evaluate.main}
    commands = []

    def run(self: Experiment, arguments: list[str]) -> int:
        commands.append(arguments)
        return mains[arguments[1]]([*arguments[2:], "--device=cpu"])

    monkeypatch.setattr(Experiment, "_python", run)
    shorten_gradient_attacks(monkeypatch.setattr)
    return commands
