"""Two threads play two processes: their steps on half a batch each equal one process's step on the whole."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.attacks import projected_gradient, views
from training.methods import StepContext
from training.methods.nuclear_norm import NuclearNormTraining
from training.methods.start_consistency import StartConsistencyTraining
from training.methods.training_attack import TrainingAttack
from training.networks.self_gradient import SelfGradientNetwork
from training.parallel.distributed import ALONE, Shard
from training.parallel.synchronised import draw_like, synchronised_steps

Result = TypeVar("Result")


@dataclass
class Meeting:
    """Where the threads add up their tensors."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=60))
    brought: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ThreadShard(Shard):
    meeting: Meeting = field(default_factory=Meeting)

    def sum_(self, tensor: Tensor) -> Tensor:
        self.meeting.brought[self.rank] = tensor.clone()
        self.meeting.barrier.wait()
        tensor.copy_(self.meeting.brought[0] + self.meeting.brought[1])
        self.meeting.barrier.wait()
        return tensor


def in_two_threads(work: Callable[[Shard], Result]) -> list[Result]:
    meeting = Meeting()
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: work(ThreadShard(rank, 2, meeting)), range(2)))


def train(model: SelfGradientNetwork, images: Tensor, labels: Tensor, shard: Shard) -> list[Tensor]:
    """Three steps of adversarial training through both passes; the losses and the weights and statistics at the end."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(3):
        with synchronised_steps(shard):
            own_images, own_labels = shard.rows(images), shard.rows(labels)
            attacked = projected_gradient.fgsm(views.smooth_view(model, 20), own_images, own_labels, eps=8 / 255)
            plain, gradient = model.first_pass(attacked)
            loss = F.cross_entropy(model.second_pass(attacked, gradient), own_labels)
            loss = loss + 0.3 * F.cross_entropy(plain, own_labels)
            optimizer.zero_grad()
            loss.backward()
        shard.average_(parameter.grad for parameter in model.parameters())
        optimizer.step()
        mean = loss.detach().clone()
        shard.average_([mean])
        losses.append(mean)
    return [*losses, *model.state_dict().values()]


def two_unlike_halves() -> tuple[Tensor, Tensor]:
    images = torch.rand(12, 3, 16, 16, dtype=torch.double)
    images[6:] *= 0.3
    return images, torch.arange(12) % 5


def test_steps_on_two_halves_are_a_step_on_the_whole(network):
    model = network(scale=8 / 255).double()
    images, labels = two_unlike_halves()
    # Double precision is needed: rounding to single precision moves a steep block's answers in the third digit.
    whole = train(model, images, labels, ALONE)
    for half in in_two_threads(lambda shard: train(model, images, labels, shard)):
        for one, other in zip(whole, half, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_without_common_statistics_the_halves_differ(network, monkeypatch):
    """Batch norm has an effect; otherwise the test above would prove nothing."""
    monkeypatch.setattr("training.parallel.synchronised._batch_norm", lambda call, shard: call.as_pytorch_does())
    model = network(scale=8 / 255).double()
    images, labels = two_unlike_halves()
    whole = train(model, images, labels, ALONE)
    half = in_two_threads(lambda shard: train(model, images, labels, shard))[0]
    assert (whole[2] - half[2]).abs() > 1e-4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_draws_are_the_whole_batchs(layout):
    images = torch.zeros(6, 3, 4, 4).contiguous(memory_format=layout)

    def draw(shard: Shard) -> Tensor:
        with synchronised_steps(shard):
            torch.manual_seed(3)
            return draw_like(shard.rows(images), lambda noise: noise.uniform_(-1, 1))

    whole = draw(ALONE)
    assert whole.abs().max() > 0.5
    # One after the other: threads share the generator, processes do not.
    assert torch.equal(torch.cat([draw(Shard(rank, 2)) for rank in range(2)]), whole)


@pytest.mark.parametrize(
    "method",
    [
        NuclearNormTraining(8 / 255, 1, 8 / 255, weight=8.0),
        NuclearNormTraining(8 / 255, 2, 8 / 255, weight=8.0, joint_pass=True),
        StartConsistencyTraining(TrainingAttack("pgd", 8 / 255, 1, 8 / 255), weight=10.0),
    ],
    ids=["nuat", "nuat-2-joint", "start-consistency"],
)
def test_a_step_of_a_one_step_method_on_two_halves_is_the_step_on_the_whole(network, method):
    """The nuclear norm is of the whole batch's logits, and a kept pass is differentiated twice."""
    images, labels = two_unlike_halves()
    prior = 8 / 255 * torch.rand(images.shape, dtype=torch.double).sub(0.5).sign()

    initial = network(block=False).double().train()

    def step(shard: Shard) -> list[Tensor]:
        model = copy.deepcopy(initial)
        with synchronised_steps(shard):
            context = StepContext(0.5, 1, shard.rows(prior))
            batch = method.attack(model, shard.rows(images), shard.rows(labels), context)
            made = method.loss(model, batch)
            made.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        shard.average_(gradients)
        loss = made.loss.detach().clone()
        shard.average_([loss])
        return [loss, *gradients, *model.buffers()]

    whole = step(ALONE)
    for half in in_two_threads(step):
        for one, other in zip(whole, half, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
