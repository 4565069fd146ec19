"""Add adversarial weight perturbation to any method."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.methods.step import OUT_OF_TRAINING, Batch, Method, Step, StepContext
from training.networks.self_gradient import SelfGradientNetwork, without_running_updates
from training.parallel.synchronised import average_gradients


@dataclass(frozen=True)
class WeightPerturbation:
    """A method's loss at weights that have been moved to where that loss is higher.

    Each weight tensor (biases and batch norm stay) moves by gamma times its own norm along the gradient of the loss on
    the attacked batch. The loss is differentiated there and applied to the weights as they were: Step.backward()
    puts them back.

    Attributes:
        method: The method.
        gamma: 5e-3 in the source for TRADES, 1e-2 in its code for adversarial training.

    Source: Wu et al., Adversarial Weight Perturbation Helps Robust Generalization (2020), eqs. (8) to (12).
    """

    method: Method
    gamma: float

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack as the method does."""
        return self.method.attack(model, images, targets, context)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Move the weights, and return the method's loss there with an undo that puts them back."""
        weights = perturbed_weights(model)
        with without_running_updates(model):
            gradients = torch.autograd.grad(self.method.loss(model, batch).loss, weights)
        average_gradients(gradients)
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                # The clamp makes a gradient of zero a move of zero instead of 0 / 0.
                weight.add_(gradient * (self.gamma * weight.norm() / gradient.norm().clamp(min=1e-20)))
        # Autocast keeps the weights that it has cast until its end, and would go on computing with unmoved ones.
        torch.clear_autocast_cache()
        step = self.method.loss(model, batch)
        return Step(step.loss, step.logits, undo=lambda: _put_back(weights, before))


def perturbed_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are perturbed: kernels and matrices."""
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]


@torch.no_grad()
def _put_back(weights: list[nn.Parameter], before: list[Tensor]) -> None:
    for weight, value in zip(weights, before, strict=True):
        weight.copy_(value)
    torch.clear_autocast_cache()
