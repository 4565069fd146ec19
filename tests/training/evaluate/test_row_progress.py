"""A row that was interrupted between two batches ends as if it had not been."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.attacks.auto_attack import Square
from training.attacks.base import AttackOn
from training.attacks.gradient_attack import Attack
from training.attacks.rows import CLEAN
from training.evaluate.measuring import Trial, withstood
from training.evaluate.row_progress import RowProgress
from training.networks.names import SelfGradient
from training.networks.self_gradient import SelfGradientNetwork

ROW = {"id": {"state": "block on", "family": "pgd"}, "steps": (1, 2)}
ATTACKS = (
    Attack("pgd", steps=3),
    Attack("cw", steps=2, restarts=2, first_restart=1, survivors_of=(CLEAN,)),
    Square(queries=5),
)


@dataclass
class Recorded:
    """An attack that keeps what it made, and is interrupted before batch number `interrupted_at`."""

    attack: AttackOn[Any]
    interrupted_at: int = -1
    made: list[Tensor] = field(default_factory=list)

    @property
    def block(self) -> SelfGradient:
        return self.attack.block

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        if len(self.made) == self.interrupted_at:
            raise KeyboardInterrupt
        self.made.append(self.attack.perturb(model, images, labels, eps))
        return self.made[-1]


@pytest.fixture(scope="module")
def network() -> SelfGradientNetwork:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)]
    return SelfGradientNetwork(nn.Sequential(*layers), None).eval().requires_grad_(False)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id.title)
def test_going_on_changes_nothing(attack: Any, network: SelfGradientNetwork, tmp_path: Path) -> None:
    images = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = network(images).argmax(dim=1)
    path = tmp_path / "evaluation.json.row"

    def run(recorded: Any, counts: list[int]) -> Tensor:
        trial = Trial(network, images, labels, eps=8 / 255, seed=3, batch_size=4, on_batch=counts.append)
        return withstood(trial, recorded, RowProgress(path, ROW))

    whole, first, second = Recorded(attack), Recorded(attack, interrupted_at=2), Recorded(attack)
    expected = run(whole, [])
    RowProgress(path, ROW).remove()
    with pytest.raises(KeyboardInterrupt):
        run(first, [])
    torch.rand(7)  # whatever the next process draws before
    counts: list[int] = []
    assert run(second, counts).tolist() == expected.tolist()
    assert counts == [8, 2]
    assert torch.equal(torch.cat(first.made + second.made), torch.cat(whole.made))
    # Killed between the last batch and the report, the row has nothing left to do.
    assert run(Recorded(attack, interrupted_at=0), []).tolist() == expected.tolist()


def test_another_row_is_no_beginning_of_this_one(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json.row"
    RowProgress(path, ROW).save([True, False])
    before = torch.get_rng_state()
    assert RowProgress(path, {**ROW, "steps": (1, 3)}).restore() == []
    assert torch.equal(torch.get_rng_state(), before)
    same = RowProgress(path, ROW)
    assert (same.restore(), same.restored) == ([True, False], 2)
    path.write_text("half a fi")
    assert RowProgress(path, ROW).restore() == []


def test_its_time_is_that_of_all_processes(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json.row"
    earlier = RowProgress(path, ROW)
    earlier._earlier = 3600.0
    earlier.save([True])
    later = RowProgress(path, ROW)
    later.restore()
    assert 3600 <= later.core_seconds() < 3700
