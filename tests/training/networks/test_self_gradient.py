import contextlib
from typing import Any

import pytest
import torch

from training.attacks import gradient_attack
from training.config import TrainConfig
from training.methods import build_method
from training.networks.backbones import build_backbone
from training.networks.errors import ArchitectureError
from training.networks.self_gradient import (
    SelfGradientBlock,
    SelfGradientNetwork,
    frozen_batch_norm,
    probability_margin,
    rms_normalised,
    soft_loss,
    without_running_updates,
)


@pytest.mark.parametrize("scaling", ["none", "rms"])
def test_block_of_zero_is_exactly_zero(scaling):
    block = SelfGradientBlock(gradient_scaling=scaling)
    assert torch.equal(block(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


def test_rms_scaling_makes_the_correction_independent_of_the_gradients_size():
    block = SelfGradientBlock(gradient_scaling="rms")
    gradient = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(block(gradient * 1e-6), block(gradient))


def test_correction_stays_within_scale_and_follows_the_gradients_sign():
    torch.manual_seed(0)
    block = SelfGradientBlock(scale=8 / 255, gradient_scaling="rms")
    gradient = torch.randn(4, 3, 8, 8)
    correction = block(gradient)
    assert correction.abs().max() <= 8 / 255
    assert (correction.sign() == gradient.sign()).float().mean() > 0.85


def test_soft_loss_is_the_sum_not_the_mean():
    logits = torch.arange(6.0).reshape(2, 3)
    assert soft_loss(logits) == 15


def test_self_gradient_equals_finite_differences(network):
    model = network().double()
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    gradient = model.self_gradient(images)
    step = 1e-7
    for image, channel, row, column in [(0, 0, 0, 0), (0, 2, 7, 9), (1, 1, 15, 3)]:
        shift = torch.zeros_like(images)
        shift[image, channel, row, column] = step
        with torch.no_grad():
            raised = soft_loss(model.plain_logits(images + shift))
            lowered = soft_loss(model.plain_logits(images - shift))
        difference = (raised - lowered) / (2 * step)
        torch.testing.assert_close(gradient[image, channel, row, column], difference, rtol=1e-4, atol=1e-8)


def test_parameters_are_differentiated_through_both_passes(network):
    model = network().double()
    images = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    weight = model.backbone.stem.weight
    loss = model(images).square().sum()
    (derivative,) = torch.autograd.grad(loss, weight)
    held = model.second_pass(images, model.self_gradient(images).detach()).square().sum()
    (held_derivative,) = torch.autograd.grad(held, weight)
    step = 1e-7
    with torch.no_grad():
        weight[0, 0, 1, 1] += step
        raised = model(images).square().sum()
        weight[0, 0, 1, 1] -= 2 * step
        lowered = model(images).square().sum()
    difference = (raised - lowered) / (2 * step)
    torch.testing.assert_close(derivative[0, 0, 1, 1], difference, rtol=1e-4, atol=1e-8)
    # The control: a derivative that forgets the first pass is another number.
    assert abs(held_derivative[0, 0, 1, 1] - difference) > 1e-3 * abs(difference)


@pytest.mark.parametrize("scaling", ["none", "rms"])
def test_logits_do_not_depend_on_the_other_images(network, scaling):
    model = network(scaling)
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_block_off_is_the_plain_network(network):
    model = network()
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        plain = model.backbone((images - model.mean) / model.std)
        assert torch.equal(model(images, self_gradient=False), plain)
        torch.testing.assert_close(model.first_pass(images)[0], plain)
        # the block matters at all
        assert (model(images) - plain).abs().max() > 1e-3


def test_a_network_without_a_block_has_one_pass(network):
    model = network(block=False)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(images), model.plain_logits(images))
    with pytest.raises(ValueError, match="no self-gradient block"):
        model.second_pass(images, images)


def test_first_pass_leaves_running_statistics_alone_in_training(network):
    model = network().train()
    before = model.backbone.norm.running_mean.clone()
    model.first_pass(torch.rand(4, 3, 16, 16))
    assert torch.equal(model.backbone.norm.running_mean, before)
    assert model.backbone.norm.training
    model(torch.rand(4, 3, 16, 16))
    assert not torch.equal(model.backbone.norm.running_mean, before)


@pytest.fixture
def training_network(network):
    """Builds a network in training mode, in float64, whose batch norm moves its statistics by half at each batch."""

    def build() -> SelfGradientNetwork:
        model = network().double().train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.5
        return model

    return build


def test_gradients_in_training_equal_those_of_separate_statistics(training_network):
    """The second pass moves the running statistics, and the first one was computed with those before."""
    model = training_network()
    images = torch.rand(4, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    parameters = dict(model.named_parameters())
    before = {name: value.clone() for name, value in model.named_buffers()}
    untouched = {name: value.clone() for name, value in before.items()}

    model.eval()
    correction = torch.func.functional_call(
        _Correction(model), {f"model.{name}": value for name, value in (parameters | untouched).items()}, (images,)
    )
    model.train()
    normalised = (images + correction - model.mean) / model.std
    own = {name.removeprefix("backbone."): value for name, value in (parameters | before).items() if "backbone" in name}
    expected = torch.func.functional_call(model.backbone, own, (normalised,)).square().sum()
    wanted = torch.autograd.grad(expected, [*parameters.values(), images])

    loss = model(images).square().sum()
    found = torch.autograd.grad(loss, [*parameters.values(), images])
    torch.testing.assert_close(loss, expected)
    for name, value, other in zip([*parameters, "images"], found, wanted, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12, msg=name)
    assert not torch.equal(model.backbone.norm.running_mean, untouched["backbone.norm.running_mean"])


class _Correction(torch.nn.Module):
    """The block's correction, computed by autograd alone."""

    def __init__(self, model: SelfGradientNetwork):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.model.backbone((images - self.model.mean) / self.model.std)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        assert self.model.block is not None
        return self.model.block(gradient)


@pytest.mark.parametrize("name", ["backbone.stem.weight", "backbone.classifier.weight", "block.convolutions.0.weight"])
def test_gradients_in_training_equal_finite_differences(training_network, name):
    model = training_network()
    images = torch.rand(4, 3, 12, 12, dtype=torch.float64)
    parameter = dict(model.named_parameters())[name]
    start = {name: value.clone() for name, value in model.named_buffers()}
    torch.manual_seed(2)
    direction = torch.randn_like(parameter)

    def loss() -> torch.Tensor:
        with torch.no_grad():
            for buffer_name, buffer in model.named_buffers():
                buffer.copy_(start[buffer_name])
        return model(images).square().sum()

    (gradient,) = torch.autograd.grad(loss(), parameter)
    step = 1e-6
    with torch.no_grad():
        parameter.add_(direction, alpha=step)
        raised = loss()
        parameter.add_(direction, alpha=-2 * step)
        lowered = loss()
    torch.testing.assert_close((gradient * direction).sum(), (raised - lowered) / (2 * step), rtol=1e-5, atol=1e-9)


def test_batch_norm_without_updates_counts_no_batches_either(network):
    model = network().train()
    norm = model.backbone.norm
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        before = {name: value.clone() for name, value in model.named_buffers()}
        with without_running_updates(model):
            logits = model.plain_logits(images)
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
        assert torch.equal(logits, model.plain_logits(images)), "it normalises by the batch as it would anyway"
    assert norm.num_batches_tracked == before["backbone.norm.num_batches_tracked"] + 1


def test_frozen_batch_norm_thaws_after_an_error(network):
    model = network().train()
    with contextlib.suppress(RuntimeError), frozen_batch_norm(model):
        assert not model.backbone.norm.training
        raise RuntimeError
    assert model.backbone.norm.training


def test_without_derivatives_the_answers_are_the_same_to_the_last_bit(network):
    model = network()
    for layout in (torch.contiguous_format, torch.channels_last):
        images = torch.rand(3, 3, 16, 16).contiguous(memory_format=layout)
        logits, gradient = model.first_pass(images)
        answers = model(images)
        assert answers.requires_grad
        with torch.no_grad():
            cheap_logits, cheap_gradient = model.first_pass(images)
            cheap_answers = model(images)
        assert torch.equal(cheap_logits, logits)
        assert torch.equal(cheap_gradient, gradient)
        assert torch.equal(cheap_answers, answers)
        assert not any(made.requires_grad for made in (cheap_logits, cheap_gradient, cheap_answers, images))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_derivatives_nothing_is_kept_for_a_second_one(network, monkeypatch):
    """Attacks that look at answers alone would pay for it with every question."""
    model = network()
    images = torch.rand(2, 3, 16, 16)
    created = []
    original: Any = torch.autograd.grad

    def recording(*arguments, create_graph=False, **options):
        created.append(create_graph)
        return original(*arguments, create_graph=create_graph, **options)

    monkeypatch.setattr(torch.autograd, "grad", recording)
    with torch.no_grad():
        model(images)
    assert created == [False]


def test_works_under_inference_mode(network):
    model = network()
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        inside = model(images)
    torch.testing.assert_close(inside, model(images).detach())


def test_impossible_blocks_are_refused():
    with pytest.raises(ArchitectureError, match="gradient_scaling"):
        SelfGradientBlock(gradient_scaling="batch")  # type: ignore[arg-type]
    with pytest.raises(ArchitectureError, match="at least one layer"):
        SelfGradientBlock(layers=0)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-15, 1e-9, 1e-3])
def test_the_normalised_gradient_has_a_finite_derivative_everywhere(size):
    gradient = torch.full((1, 3, 2, 2), size, requires_grad=True)
    normalised = rms_normalised(gradient)
    with torch.no_grad():
        assert torch.equal(normalised, rms_normalised(gradient)), "values do not depend on who differentiates"
    torch.manual_seed(0)
    (derivative,) = torch.autograd.grad(normalised, gradient, torch.randn_like(normalised))
    assert torch.isfinite(derivative).all()
    assert (derivative.abs().sum() > 0) == (size >= 1e-9)


@pytest.mark.parametrize("arch", ["wrn-10-1", "preact-resnet-18"])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_smallest_pictures_give_finite_gradients(arch, side):
    """Black ones too, whose self-gradient may be zero."""
    torch.manual_seed(0)
    model = SelfGradientNetwork(build_backbone(arch, 3), SelfGradientBlock(gradient_scaling="rms")).train()
    images = torch.rand(4, 3, side, side)
    images[:2] = 0
    for view in ("held", "smooth"):
        method = build_method(TrainConfig("image-folder", attack_view=view))
        step = method.loss(model, method.attack(model, images, torch.tensor([0, 1, 2, 0])))
        model.zero_grad()
        step.backward()
        assert torch.isfinite(step.loss)
        assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


def test_an_attack_on_a_picture_without_a_self_gradient_stays_a_picture():
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 4, 1)
    torch.nn.init.constant_(convolution.get_parameter("bias"), -100.0)
    dead = torch.nn.Sequential(convolution, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    model = SelfGradientNetwork(dead, SelfGradientBlock(gradient_scaling="rms")).eval()
    images = torch.rand(2, 3, 4, 4)
    assert (model.self_gradient(images) == 0).all()
    attacked = gradient_attack.smooth_cw_attack(5, 20).perturb(model, images, torch.tensor([0, 1]), 8 / 255)
    assert torch.isfinite(attacked).all()
    assert (attacked - images).abs().max() <= 8 / 255 + 1e-6


def test_margin_is_the_difference_of_the_two_largest_probabilities():
    logits = torch.tensor([[0.0, 0.0, -50.0], [50.0, 0.0, 0.0], [0.7, 0.2, 0.1]]).log_softmax(dim=1)
    logits[2] = torch.tensor([0.7, 0.2, 0.1]).log()
    torch.testing.assert_close(probability_margin(logits), torch.tensor([0.0, 1.0, 0.5]))
    assert probability_margin(torch.tensor([[3.0]])) == 1
    assert probability_margin(torch.tensor([[torch.nan, 1.0]])).isnan()


def test_auto_runs_the_second_pass_only_for_pictures_under_the_threshold(network):
    model, images = network(), torch.rand(12, 3, 16, 16)
    seen = []
    model.block.register_forward_hook(lambda block, inputs, output: seen.append(len(output)))
    with torch.no_grad():
        plain, corrected = model(images, self_gradient=False), model(images)
        margins = probability_margin(plain)
        model.auto_margin = margins.median().item()  # the lower of the two in the middle, where their number is even
        seen.clear()
        logits, chosen = model.auto_pass(images)
    assert chosen.tolist() == (margins < model.auto_margin).tolist()
    assert seen == [int(chosen.sum())] == [5]
    torch.testing.assert_close(logits[chosen], corrected[chosen])
    assert torch.equal(logits[~chosen], plain[~chosen])
    with torch.no_grad():
        assert torch.equal(model(images, self_gradient="auto"), logits)


@pytest.mark.parametrize(("margin", "same_as"), [(0.0, False), (1.0, True)])
def test_auto_at_its_ends_is_block_off_and_block_on(network, margin, same_as):
    model, images = network(), torch.rand(4, 3, 16, 16)
    model.auto_margin = margin
    with torch.no_grad():
        torch.testing.assert_close(model(images, self_gradient="auto"), model(images, self_gradient=same_as))


def test_auto_is_differentiable_through_either_side(network):
    model, images = network(), torch.rand(6, 3, 16, 16, requires_grad=True)
    with torch.no_grad():
        model.auto_margin = probability_margin(model(images, self_gradient=False)).median().item()
    logits, chosen = model.auto_pass(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    for state, rows in ((True, chosen), (False, ~chosen)):
        (one,) = torch.autograd.grad(model(images, self_gradient=state).sum(), images)
        torch.testing.assert_close(gradient[rows], one[rows], rtol=1e-3, atol=1e-5)


def test_an_unclear_plain_answer_needs_the_second_pass(network):
    model = network()
    model.auto_margin = 0.1
    assert model.needs_second_pass(torch.tensor([[torch.nan, 0.0], [9.0, 0.0]])).tolist() == [True, False]


def test_auto_without_a_threshold_says_how_to_get_one(network):
    with pytest.raises(ValueError, match=r"no threshold for self_gradient.*auto_margin"):
        network()(torch.rand(1, 3, 16, 16), self_gradient="auto")
    with pytest.raises(ValueError, match=r"must be True, False or .*not 'on'"):
        network()(torch.rand(1, 3, 16, 16), self_gradient="on")
    with pytest.raises(ArchitectureError, match="auto_margin must be a difference of probabilities"):
        SelfGradientNetwork(torch.nn.Identity(), None, auto_margin=1.5)


def test_auto_of_a_network_without_a_block_is_its_only_pass(network):
    model, images = network(block=False), torch.rand(2, 3, 16, 16)
    assert torch.equal(model(images, self_gradient="auto"), model(images))
