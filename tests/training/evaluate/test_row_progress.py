"""A row that was interrupted between two batches ends as if it had not been."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.attacks.auto_attack import GradientStage, Square
from training.attacks.base import AttackOn
from training.attacks.black_box import RandomNoise, SourceNetwork, Transfer
from training.attacks.exported_graph import OnExportedGraph
from training.attacks.gate import GateAttack
from training.attacks.gradient_attack import Attack
from training.attacks.registry import Context, build_attacks
from training.evaluate.measuring import Trial, withstood
from training.evaluate.row_progress import CheckProgress, RowProgress
from training.networks.names import SelfGradient
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

ROW = {"id": {"state": "block on", "family": "pgd"}, "steps": (1, 2)}


def tiny(seed: int, block: bool) -> SelfGradientNetwork:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)]
    made = SelfGradientBlock(scale=8 / 255) if block else None
    network = SelfGradientNetwork(nn.Sequential(*layers), made).eval().requires_grad_(False)
    network.auto_margin = 0.1 if block else None
    return network


NETWORK, OTHER = tiny(0, block=True), tiny(1, block=False)


def every_attack() -> list[AttackOn[Any]]:
    """Return every attack that an evaluation may run, cheaper than usual."""
    context = Context(
        eps=8 / 255,
        has_block=True,
        classes=4,
        betas=(20.0,),
        restarts=2,
        checkpoint=SourceNetwork(NETWORK, "the checkpoint", "0" * 64),
        graph_sha256="1" * 64,
        transfer=SourceNetwork(OTHER, "pgd tiny", "2" * 64),
        queries=5,
        auto=True,
    )
    # Rows that differ in their number of steps alone become one.
    return list({attack.id: attack for attack in map(_cheaper, build_attacks(["full"], context))}.values())


def _cheaper(attack: Any) -> Any:
    """Return an attack with few steps, or whose attack on another network has few."""
    if isinstance(attack, GradientStage):
        return replace(attack, iterations=3)
    if isinstance(attack, Attack | GateAttack):
        return replace(attack, steps=min(attack.steps, 4))
    return replace(attack, attack=_cheaper(attack.attack)) if isinstance(attack, Transfer | OnExportedGraph) else attack


ATTACKS = every_attack()


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


def test_every_kind_of_attack_is_tried() -> None:
    assert {type(attack) for attack in ATTACKS} == {
        Attack,
        GradientStage,
        Square,
        RandomNoise,
        Transfer,
        OnExportedGraph,
        GateAttack,
    }
    stages = [attack for attack in ATTACKS if isinstance(attack, GradientStage)]
    assert {stage.algorithm for stage in stages} == {"apgd-ce", "apgd-t", "fab-t"}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id.label)
def test_going_on_changes_nothing(attack: Any, tmp_path: Path) -> None:
    network = NETWORK
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
    assert len(RowProgress(path, ROW).restore()) == 8, "two batches of four are saved"
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


def test_the_parts_of_a_check_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path, check = tmp_path / "evaluation.json.check", {"setting": {"eps": 8 / 255, "beta": (5.0, 20.0)}}
    parts = [torch.rand(5) / 3, torch.randn(5) * 1e-20]
    CheckProgress(path, check).save(parts)
    again = CheckProgress(path, check)
    assert all(torch.equal(one, other) for one, other in zip(again.restore(), parts, strict=True))
    assert again.done == 2
    assert CheckProgress(path, {"setting": {}}).restore() == []
    path.write_text("[1, 2")
    assert CheckProgress(path, check).restore() == []
    again.remove()
    assert not path.exists()
