"""Batches do not depend on each other, and those that are saved come back."""

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
from training.attacks.gradient_attack import Attack, pgd_attack
from training.attacks.registry import Context, build_attacks
from training.evaluate.measuring import BatchResult, Trial, measure_batch
from training.evaluate.row_progress import BatchProgress, CheckProgress
from training.networks.names import SelfGradient
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork


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
    """An attack that keeps what it made."""

    attack: AttackOn[Any]
    made: list[Tensor] = field(default_factory=list)

    @property
    def block(self) -> SelfGradient:
        return self.attack.block

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
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


@pytest.mark.thorough
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id.label)
def test_a_batch_depends_on_its_pictures_alone(attack: Any) -> None:
    """Neither the batches before it nor the process change what an attack makes of it."""
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    trial = Trial(NETWORK, images, NETWORK(images).argmax(dim=1), eps=8 / 255, seed=3)
    batches = [(0, 1, 3), (2, 5)]
    forwards: Any = Recorded(attack)
    backwards: Any = Recorded(attack)
    there = [measure_batch(trial, forwards, batch).withstood for batch in batches]
    torch.rand(7)  # whatever another process draws before
    back = [measure_batch(trial, backwards, batch).withstood for batch in reversed(batches)]
    assert there == back[::-1]
    assert [len(marks) for marks in there] == [3, 2]
    for one, other in zip(forwards.made, reversed(backwards.made), strict=True):
        assert torch.equal(one, other)


def test_saved_batches_are_found_by_attack_and_pictures(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json.row"
    setting = {"eps": 8 / 255, "beta": (5.0, 20.0)}
    one, other = pgd_attack(3), pgd_attack(4)
    first, second = BatchResult("101", 3600.5), BatchResult("0", 1.0)
    progress = BatchProgress(path, setting)
    progress.add(one, (0, 2, 3), first)
    progress.add(other, (5,), second)
    again = BatchProgress(path, setting)
    assert again.find(one, (0, 2, 3)) is None, "nothing is read before it is asked for"
    again.restore()
    assert again.find(one, (0, 2, 3)) == first
    assert again.find(other, (5,)) == second
    assert again.find(one, (0, 2, 4)) is None
    assert again.find(replace(one, step_size=0.5), (0, 2, 3)) is None
    again.forget(one)
    third = BatchProgress(path, setting)
    third.restore()
    assert (third.find(one, (0, 2, 3)), third.find(other, (5,))) == (None, second)
    third.forget(other)
    assert not path.exists()


@pytest.mark.parametrize("content", ["half a fi", "[1, 2]", '{"setting": {"eps": 0.1}, "rows": []}'])
def test_a_file_that_is_damaged_or_of_another_setting_counts_as_none(content: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json.row"
    attack, setting = pgd_attack(3), {"eps": 0.2}
    BatchProgress(path, setting).add(attack, (0, 1), BatchResult("10", 1.0))
    path.write_text(content)
    progress = BatchProgress(path, setting)
    progress.restore()
    assert progress.find(attack, (0, 1)) is None
    BatchProgress(path, setting).add(attack, (0, 1), BatchResult("10", 1.0))
    path.write_text(path.read_text().replace('"withstood": "10"', '"withstood": "1"'))
    progress.restore()
    assert progress.find(attack, (0, 1)) is None


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
