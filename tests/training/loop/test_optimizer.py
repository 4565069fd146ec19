"""The step of the optimiser: momentum, weight decay and the size of a batch, against SGD written out."""

import pytest
import torch
from torch import Tensor

from training.config import TrainConfig
from training.data.picture_set import PictureSet
from training.loop.progress_bar import ProgressBar
from training.loop.trainer import Trainer

PICTURES, HELD_OUT = 12, 2


def trainer(folder, **options) -> Trainer:
    config = TrainConfig(
        arch="wrn-10-1",
        epochs=1,
        lr=0.05,
        lr_milestones=(),
        validation_pictures=HELD_OUT,
        crop_padding=0,
        **({"precision": "float32"} | options),
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (PICTURES + HELD_OUT, 3, 8, 8), dtype=torch.uint8, generator=generator)
    pictures = PictureSet(images, torch.arange(len(images)) % 2, ("a", "b"))
    return Trainer(config, pictures, folder, torch.device("cpu"))


def train_epoch(made: Trainer) -> None:
    bar = ProgressBar(made._time_left(), visible=False)
    made._train_epoch(0, bar)
    bar.close()


def nesterov(start: Tensor, gradients: list[Tensor], momentum: float, weight_decay: float) -> Tensor:
    """Parameters after steps of SGD with these gradients at a learning rate of 0.05."""
    value, velocity = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        gradient = gradient + weight_decay * value
        velocity = momentum * velocity + gradient
        value = value - 0.05 * (gradient + momentum * velocity)
    return value


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.5, 0.01), (0.0, 0.0), (0.9, 5e-4)])
def test_the_steps_are_those_of_nesterovs_sgd_and_the_block_does_not_decay(momentum, weight_decay, tmp_path):
    given = {"momentum": momentum, "weight_decay": weight_decay}
    made = trainer(tmp_path, batch_size=4, **given)
    block = made.model.block
    assert block is not None
    groups = made.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [weight_decay, 0.0]
    assert [set(map(id, group["params"])) for group in groups] == [
        set(map(id, part.parameters())) for part in (made.model.backbone, block)
    ]
    assert {group["momentum"] for group in groups} == {momentum}
    start = {name: value.detach().clone() for name, value in made.model.named_parameters()}
    gradients: dict[str, list[Tensor]] = {name: [] for name in start}

    def record(*_):
        for name, value in made.model.named_parameters():
            assert value.grad is not None
            gradients[name].append(value.grad.clone())

    made.optimizer.register_step_pre_hook(record)
    train_epoch(made)
    assert {len(seen) for seen in gradients.values()} == {PICTURES // 4}
    for name, value in made.model.named_parameters():
        decay = 0.0 if name.startswith("block.") else weight_decay
        expected = nesterov(start[name], gradients[name], momentum, decay)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-7, msg=name)
    # Other values lead elsewhere, so the comparison above tells them apart.
    weight = made.model.get_parameter("backbone.stem.weight")
    for other in ((0.4, weight_decay), (momentum, weight_decay + 0.01)):
        elsewhere = nesterov(start["backbone.stem.weight"], gradients["backbone.stem.weight"], *other)
        assert not torch.allclose(weight, elsewhere, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("batch_size", "precision"), [(2, "float32"), (5, "bf16")])
@pytest.mark.parametrize("method", ["standard", "self-gradient"])
def test_a_step_sees_a_batch_of_pictures_in_the_precision_that_is_asked_for(method, batch_size, precision, tmp_path):
    made = trainer(tmp_path, batch_size=batch_size, method=method, precision=precision)
    sizes: list[int] = []
    types: set[torch.dtype] = set()
    steps: list[int] = []
    made.model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    made.model.get_submodule("backbone.classifier").register_forward_hook(
        lambda _, inputs, logits: types.add(logits.dtype)
    )
    made.optimizer.register_step_pre_hook(lambda *_: steps.append(len(sizes)))
    train_epoch(made)
    assert set(sizes) == {batch_size}
    assert types == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert len(steps) == PICTURES // batch_size, "an incomplete last batch is left out"
