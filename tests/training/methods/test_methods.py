"""Each method's loss against a straightforward reference, written out anew on a tiny network."""

import copy

import pytest
import torch
import torch.nn.functional as F

from training.attacks import views
from training.config import METHODS, TrainConfig, recipe_defaults
from training.methods import build_method
from training.methods.bilateral import most_confusing, perturbed_labels, random_wrong_class
from training.methods.gradient_alignment import GradientAlignment, misalignment
from training.methods.trades import divergence
from training.methods.weight_perturbation import WeightPerturbation
from training.networks.self_gradient import SelfGradientNetwork, without_running_updates

EPS = 8 / 255


def configured(method: str, **options) -> TrainConfig:
    return TrainConfig("cifar10", **(recipe_defaults("cifar10", method) | {"method": method} | options))


def outcome(model, config, images, targets, seed=0):
    """The loss and every parameter's gradient of one step; the model itself stays as it was."""
    model = copy.deepcopy(model).train()
    method = build_method(config)
    torch.manual_seed(seed)
    step = method.loss(model, method.attack(model, images, targets))
    step.backward()
    return step.loss.item(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])


def pgd_by_hand(logits_of, images, labels, steps, step_size, start):
    torch.manual_seed(0)
    current = images.clone()
    if start == "uniform":
        current = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        current.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits_of(current), labels), current)
        moved = current.detach() + step_size * gradient.sign()
        current = torch.minimum(torch.maximum(moved, images - EPS), images + EPS).clamp(0, 1)
    return current


def test_standard_is_cross_entropy(network, batch):
    images, labels = batch
    model = network(block=False)
    loss, _ = outcome(model, configured("standard"), images, labels)
    assert loss == pytest.approx(F.cross_entropy(copy.deepcopy(model).train()(images), labels).item())


@pytest.mark.parametrize(("steps", "start"), [(1, "uniform"), (3, "uniform"), (1, "image"), (3, "image")])
def test_self_gradient_and_pgd_are_cross_entropy_after_k_steps(network, batch, steps, start):
    images, labels = batch
    options = {"attack_steps": steps, "attack_step_size": 4 / 255, "attack_start": start}
    for method in ("pgd", "self-gradient"):
        model = network(scale=EPS, block=method == "self-gradient")
        loss, _ = outcome(model, configured(method, **options), images, labels)
        reference = copy.deepcopy(model).train()
        logits_of = reference if method == "pgd" else views.held_view(reference)
        attacked = pgd_by_hand(logits_of, images, labels, steps, 4 / 255, start)
        assert loss == pytest.approx(F.cross_entropy(reference(attacked), labels).item(), rel=1e-5)
        assert (attacked - images).abs().max() <= EPS + 1e-6


def test_trades_is_natural_loss_plus_beta_times_the_divergence(network, batch):
    images, labels = batch
    model = network(block=False)
    loss, _ = outcome(model, configured("trades", attack_steps=3), images, labels)
    frozen = copy.deepcopy(model).eval()
    natural = frozen(images).softmax(dim=1).detach()
    torch.manual_seed(0)
    current = (images + 0.001 * torch.empty_like(images).normal_()).clamp(0, 1)
    for _ in range(3):
        current.requires_grad_()
        raised = (natural * (natural.log() - frozen(current).log_softmax(dim=1))).sum()
        (gradient,) = torch.autograd.grad(raised, current)
        moved = current.detach() + 2 / 255 * gradient.sign()
        current = torch.minimum(torch.maximum(moved, images - EPS), images + EPS).clamp(0, 1)
    trained = copy.deepcopy(model).train()
    natural_logits, logits = trained(images), trained(current)
    shares = natural_logits.softmax(dim=1)
    expected = (
        F.cross_entropy(natural_logits, labels)
        + 6 * (shares * (shares.log() - logits.log_softmax(dim=1))).sum(dim=1).mean()
    )
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_the_divergence_is_worked_out_in_float32():
    logits = torch.tensor([[3.0, 1.0, -2.0]])
    half = divergence(logits.bfloat16(), (logits + 0.5 * torch.eye(3)[:1]).bfloat16())
    assert half.dtype == torch.float32
    assert half.item() > 0
    assert divergence(logits, logits).item() == 0


@pytest.mark.parametrize("beta", [9.0, 11.0])
def test_perturbed_labels_are_the_authors_formula(beta):
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(4, 10), torch.tensor([1, 0, 9, 4])
    perturbed = perturbed_labels(logits, labels, beta)
    torch.testing.assert_close(perturbed.sum(dim=1), torch.ones(4))
    for row, right, result in zip(logits.tolist(), labels.tolist(), perturbed.tolist(), strict=True):
        value = (-torch.tensor(row).log_softmax(dim=0)).tolist()
        wrong = [k for k in range(10) if k != right]
        lowest = min(value[k] for k in wrong)
        total = sum(value[k] - lowest + 0.01 for k in wrong)
        largest = max((value[k] - lowest + 0.01) / total for k in wrong)
        epsilon = 1 / (1 + beta * largest)
        assert result[right] == pytest.approx(1 - epsilon, abs=1e-5)
        for k in wrong:
            assert result[k] == pytest.approx(epsilon * (value[k] - lowest + 0.01) / total, abs=1e-5)
        assert result[right] == pytest.approx(beta * max(result[k] for k in wrong), rel=1e-4)
        assert 1 / (1 + beta) < epsilon <= 1 / (1 + beta / 9)


def test_bilateral_moves_pictures_towards_the_most_confusing_class(network, batch):
    images, labels = batch
    model = network(block=False)
    config = configured("bilateral")
    method = build_method(config)
    trained = copy.deepcopy(model).train()
    torch.manual_seed(0)
    made = method.attack(trained, images, labels)
    frozen = copy.deepcopy(model).eval()
    aims = frozen(images).scatter(1, labels[:, None], float("-inf")).argmax(dim=1)
    torch.manual_seed(0)
    start = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(frozen(start), aims), start)
    moved = start.detach() - EPS * gradient.sign()
    expected = torch.minimum(torch.maximum(moved, images - EPS), images + EPS).clamp(0, 1)
    torch.testing.assert_close(made.attacked, expected)
    loss = method.loss(trained, made).loss
    logits = copy.deepcopy(model).train()(expected)
    by_hand = -(perturbed_labels(frozen(images), labels, 9.0) * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_classes_that_bilateral_aims_at_are_wrong_ones():
    logits = torch.tensor([[5.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    assert most_confusing(logits, torch.tensor([0, 1])).tolist() == [2, 2]
    labels = torch.arange(3).repeat(50)
    drawn = random_wrong_class(labels, 3)
    assert not (drawn == labels).any()
    assert set(drawn.tolist()) == {0, 1, 2}


def test_label_smoothing_changes_the_loss_and_not_the_attack(network, batch):
    images, labels = batch
    for name in ("standard", "pgd", "trades", "self-gradient"):
        model = network(scale=EPS, block=name == "self-gradient")
        losses = {}
        attacked = {}
        for smoothing in (0.0, 0.2):
            method = build_method(configured(name, attack_steps=1, label_smoothing=smoothing))
            trained = copy.deepcopy(model).train()
            torch.manual_seed(0)
            made = method.attack(trained, images, labels)
            attacked[smoothing] = made.attacked
            losses[smoothing] = method.loss(trained, made).loss.item()
        assert torch.equal(attacked[0.0], attacked[0.2])
        assert losses[0.0] != losses[0.2]


def test_gradient_alignment_adds_the_misalignment(network, batch):
    images, labels = batch
    model = network(block=False)
    plain, _ = outcome(model, configured("pgd", attack_steps=1), images, labels)
    with_it, gradients = outcome(model, configured("pgd", attack_steps=1, gradient_alignment=0.5), images, labels)
    frozen = copy.deepcopy(model).eval()

    def gradient(inputs):
        inputs = inputs.clone().requires_grad_()
        loss = F.cross_entropy(frozen(inputs), labels, reduction="sum")
        return torch.autograd.grad(loss, inputs, create_graph=True)[0].flatten(1)

    torch.manual_seed(0)
    torch.empty_like(images).uniform_()  # the attack's start
    nearby = images + torch.empty_like(images).uniform_(-EPS, EPS)
    # The step before has moved the running statistics that the misalignment is measured with.
    method = build_method(configured("pgd", attack_steps=1))
    torch.manual_seed(0)
    frozen.train()
    method.loss(frozen, method.attack(frozen, images, labels))
    frozen.eval()
    cosine = F.cosine_similarity(gradient(images).detach(), gradient(nearby), dim=1)
    assert with_it - plain == pytest.approx(0.5 * (1 - cosine.mean()).item(), rel=1e-3)
    # It reaches the parameters.
    _, without = outcome(model, configured("pgd", attack_steps=1), images, labels)
    assert (gradients["backbone.stem.weight"] - without["backbone.stem.weight"]).norm() > 0


def test_misalignment_of_a_linear_network_is_zero_and_of_a_dead_one_too(batch):
    images, labels = batch
    linear = SelfGradientNetwork(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), None)
    two = labels % 2
    assert misalignment(linear, images, two, EPS).item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        linear.get_parameter("backbone.1.weight").zero_()
    assert misalignment(linear, images, two, EPS).item() == 0


@pytest.mark.parametrize("name", ["pgd", "self-gradient", "trades", "standard"])
def test_weight_perturbation_differentiates_at_moved_weights_and_puts_them_back(network, batch, name):
    images, labels = batch
    model = network(scale=EPS, block=name == "self-gradient").train()
    before = copy.deepcopy(model.state_dict())
    plain = build_method(configured(name, attack_steps=1))
    method = build_method(configured(name, attack_steps=1, weight_perturbation=0.01))
    torch.manual_seed(0)
    made = method.attack(copy.deepcopy(model), images, labels)
    # By hand: ascend once, differentiate there.
    moved = copy.deepcopy(model)
    weights = {key: value for key, value in moved.named_parameters() if value.ndim > 1}
    with without_running_updates(moved):
        gradients = torch.autograd.grad(plain.loss(moved, made).loss, list(weights.values()))
    with torch.no_grad():
        for value, gradient in zip(weights.values(), gradients, strict=True):
            value += 0.01 * value.norm() * gradient / gradient.norm()
    expected = plain.loss(moved, made)
    expected.backward()

    step = method.loss(model, made)
    assert not torch.equal(model.backbone.stem.weight, before["backbone.stem.weight"])
    step.backward()
    assert step.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    for key, value in model.named_parameters():
        assert torch.equal(value, before[key]), key
        torch.testing.assert_close(value.grad, dict(moved.named_parameters())[key].grad)
    # Higher than at the weights as they are, and batch norm saw the batch once.
    assert step.loss > plain.loss(copy.deepcopy(model), made).loss
    key = "backbone.norm.running_mean"
    torch.testing.assert_close(model.state_dict()[key], moved.state_dict()[key])


def test_flags_that_are_off_leave_nothing_around_the_method():
    for name in METHODS:
        assert build_method(configured(name)) == build_method(configured(name, gradient_alignment=0.0, cutmix=0.0))
        assert not isinstance(build_method(configured(name)), GradientAlignment | WeightPerturbation)
    both = build_method(configured("pgd", gradient_alignment=0.2, weight_perturbation=0.005))
    assert isinstance(both, WeightPerturbation)
    assert isinstance(both.method, GradientAlignment)
