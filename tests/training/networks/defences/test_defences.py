"""Defences against hand-written float64 versions of themselves, and as attacks see them."""

import numpy as np
import pytest
import torch
from torch import nn

from training.attacks import views
from training.derivatives.piecewise_linear import is_piecewise_linear
from training.networks.backbones import build_backbone
from training.networks.defences.anti_adversary import AntiAdversary
from training.networks.defences.build import DEFENCES, DefenceConfig, build_defence
from training.networks.defences.energy_step import EnergyStep
from training.networks.defences.gradient_denoiser import GradientDenoiser, TweedieStep
from training.networks.defences.noise_average import NoiseAverage
from training.networks.errors import ArchitectureError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZE = (4, 4)
FEATURES = 3 * SIZE[0] * SIZE[1]


def backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 5)).double()


class ByHand:
    """The same network in NumPy, with derivatives written out."""

    def __init__(self, network):
        first, second = network[1], network[3]
        self.first, self.first_bias = first.weight.detach().numpy(), first.bias.detach().numpy()
        self.second, self.second_bias = second.weight.detach().numpy(), second.bias.detach().numpy()

    def logits(self, image):
        mean, std = (np.array(values, dtype=np.float32).astype(float)[:, None, None] for values in (MEAN, STD))
        self.hidden = self.first @ ((image - mean) / std).ravel() + self.first_bias
        return self.second @ np.maximum(self.hidden, 0) + self.second_bias

    def gradient(self, image, of_logits):
        """By the chain rule: the derivative by the image, given that by the logits as a function of them."""
        by_hidden = (self.second.T @ of_logits(self.logits(image))) * (self.hidden > 0)
        std = np.array(STD, dtype=np.float32).astype(float)[:, None, None]
        return (self.first.T @ by_hidden).reshape(image.shape) / std


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


@pytest.fixture
def images():
    return torch.rand(6, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def answers(function, images):
    return torch.tensor(np.stack([function(image) for image in images.numpy()]))


def test_an_energy_step_goes_along_the_softmax_weighted_gradient(images):
    network = backbone()
    hand = ByHand(network)

    def answer(image):
        gradient = hand.gradient(image, softmax)
        return hand.logits(image + 0.1 * gradient / np.sqrt((gradient**2).mean()))

    defence = EnergyStep(network, MEAN, STD, step_size=0.1).double()
    with torch.no_grad():
        found = defence(images)
        torch.testing.assert_close(found, answers(answer, images), rtol=1e-9, atol=1e-9)
        # Log-sum-exp, which the step is to raise, is higher than before.
        assert (found.logsumexp(1) > defence(images, self_gradient=False).logsumexp(1)).all()


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_gradient_denoiser_goes_by_the_softmax_weighted_gradient_as_it_is(images, share):
    network = backbone()
    hand = ByHand(network)
    defence = GradientDenoiser(network, MEAN, STD, share=share).double()
    with torch.no_grad():
        found = defence(images)
    expected = answers(lambda image: hand.logits(image + share * hand.gradient(image, softmax)), images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_denoisers_step_never_exceeds_the_range_of_an_intensity():
    gradients = torch.tensor([0.0, 1e-38, -0.5, 3e38, -3e38, torch.inf]).view(6, 1, 1, 1)
    assert TweedieStep(1.0)(gradients).flatten().tolist() == pytest.approx([0, 1e-38, -0.5, 1, -1, 1])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_anti_adversary_steps_towards_its_own_first_answer(images, steps):
    network = backbone()
    hand = ByHand(network)

    def answer(image):
        label = hand.logits(image).argmax()
        moved = np.zeros_like(image)
        for _ in range(steps):
            # The derivative of cross-entropy by the logits: probabilities, minus one at the label.
            gradient = hand.gradient(image + moved, lambda logits: softmax(logits) - np.eye(5)[label])
            moved -= 0.05 * np.sign(gradient)
        return hand.logits(image + moved)

    defence = AntiAdversary(network, MEAN, STD, steps=steps, step_size=0.05).double()
    with torch.no_grad():
        found, plain = defence(images), defence(images, self_gradient=False)
    torch.testing.assert_close(found, answers(answer, images), rtol=1e-9, atol=1e-9)
    own = plain.argmax(1, keepdim=True)
    assert (found.log_softmax(1).gather(1, own) > plain.log_softmax(1).gather(1, own)).all()


def test_a_noise_average_is_the_mean_over_its_fixed_noise(images):
    network = backbone()
    hand = ByHand(network)
    defence = NoiseAverage(network, MEAN, STD, image_size=SIZE, samples=3, deviation=0.1).double()
    noise = defence.noise.numpy()
    assert noise.std() == pytest.approx(0.1, rel=0.2)
    with torch.no_grad():
        found = defence(images)
        expected = answers(lambda image: np.mean([hand.logits(image + one) for one in noise], axis=0), images)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(found, defence(images, self_gradient=False))
        again = NoiseAverage(network, MEAN, STD, image_size=SIZE, samples=3, deviation=0.1).double()
        assert torch.equal(again(images), found)


def every_defence(network=None, size=SIZE):
    return [build_defence(config, network or backbone(), MEAN, STD, size).double() for config in DEFENCES.values()]


def test_the_answer_does_not_depend_on_neighbours_or_on_who_records_gradients(images):
    for defence in every_defence():
        with torch.no_grad():
            found = defence(images)
            alone = torch.cat([defence(image) for image in images.split(1)])
        torch.testing.assert_close(alone, found)
        torch.testing.assert_close(defence(images), found)
        with torch.inference_mode():
            torch.testing.assert_close(defence(images), found)
        plain = defence.backbone((images - defence.mean) / defence.std)
        assert torch.equal(defence(images, self_gradient=False), plain)


def test_every_view_of_an_attack_shows_the_exact_answer(images):
    for defence in every_defence():
        exact = defence(images)
        for view in (views.held_view(defence), views.full_view(defence), views.smooth_view(defence, 5.0)):
            torch.testing.assert_close(view(images), exact)
        if defence.uses_gradient:
            torch.testing.assert_close(views.straight_through_view(defence, 5.0)(images), exact)
        assert torch.equal(views.first_pass_view(defence)(images), defence(images, self_gradient=False))


def derivative(view, images):
    inputs = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(view(inputs)[:, 0].sum(), inputs)
    return found


def test_the_honest_derivative_of_signed_steps_is_that_of_the_last_pass(images):
    defence = AntiAdversary(backbone(), MEAN, STD, step_size=0.05).double()
    assert is_piecewise_linear(defence, images)
    held = derivative(views.held_view(defence), images)
    torch.testing.assert_close(derivative(views.full_view(defence), images), held)
    smooth = derivative(views.smooth_view(defence, 1.0), images)
    assert (smooth - held).norm() > 1e-3 * held.norm(), "the smooth surrogate must see the steps"


def test_the_honest_derivative_of_an_energy_step_goes_through_both_passes(images):
    defence = EnergyStep(backbone(), MEAN, STD, step_size=0.1).double()
    assert not is_piecewise_linear(defence, images)
    found = derivative(views.plain_view(defence, images), images)
    held = derivative(views.held_view(defence), images)
    assert (found - held).norm() > 1e-3 * held.norm()
    shift, direction = 1e-6, torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (defence(images + shift * direction) - defence(images - shift * direction))[:, 0] / (2 * shift)
    torch.testing.assert_close((found * direction).sum(dim=(1, 2, 3)), difference, rtol=1e-4, atol=1e-4)


def test_a_defence_of_a_convolutional_network_keeps_its_batch_norm_as_it_is():
    torch.manual_seed(0)
    network = build_backbone("wrn-10-1", 3)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    for defence in every_defence(network.eval(), (8, 8)):
        before = {name: tensor.clone() for name, tensor in defence.state_dict().items()}
        assert defence(images).shape == (2, 3)
        assert all(torch.equal(tensor, before[name]) for name, tensor in defence.state_dict().items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DefenceConfig("moat", 1, 0.1), "known are: anti-adversary"),
        (DefenceConfig("energy-step", 2, 0.1), "takes one step"),
        (DefenceConfig("gradient-denoiser", 2, 1.0), "takes one step"),
        (DefenceConfig("anti-adversary", 0, 0.1), "at least one step"),
        (DefenceConfig("noise-average", 0, 0.1), "at least one sample"),
    ],
)
def test_what_is_no_defence_is_refused(config, message):
    with pytest.raises(ArchitectureError, match=message):
        build_defence(config, backbone(), MEAN, STD, SIZE)
