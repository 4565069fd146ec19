"""Add gradient alignment, a remedy for catastrophic overfitting, to any adversarial method."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.attacks import projected_gradient, views
from training.methods.step import OUT_OF_TRAINING, Batch, Method, Step, StepContext
from training.networks.self_gradient import SelfGradientNetwork, frozen_batch_norm
from training.parallel.synchronised import draw_like


def misalignment(model: SelfGradientNetwork, images: Tensor, targets: Tensor, eps: float) -> Tensor:
    """Return the mean of 1 - cosine between the loss gradients at the images and at draws from their eps balls.

    Batch norm is frozen, so that each image's gradient is its own; the source normalises by the batch. A self-gradient
    is held fixed in both.

    Args:
        model: The network in training.
        images: (N, 3, H, W).
        targets: See Batch.
        eps: Radius of the balls, units of pixel intensity. The draws are uniform.

    Returns:
        A scalar in [0, 2]. It is differentiable with respect to the parameters through the second gradient only, which
        the source found to be enough.
    """
    view = views.held_view(model)

    def gradient(inputs: Tensor, *, differentiable: bool) -> Tensor:
        inputs = inputs.detach().requires_grad_()
        loss = projected_gradient.cross_entropy(view(inputs), targets).sum()
        return torch.autograd.grad(loss, inputs, create_graph=differentiable)[0].flatten(1).float()

    with frozen_batch_norm(model):
        at_image = gradient(images, differentiable=False)
        nearby = images + draw_like(images, lambda noise: noise.uniform_(-eps, eps))
        at_nearby = gradient(nearby, differentiable=True)
    # A gradient of zero has no direction. Such images are left out, as in the source.
    directed = (at_image.square().sum(dim=1) > 0) & (at_nearby.detach().square().sum(dim=1) > 0)
    cosines = F.cosine_similarity(at_image, at_nearby, dim=1, eps=1e-20)
    return torch.where(directed, 1 - cosines, 0.0).sum() / directed.sum().clamp(min=1)


@dataclass(frozen=True)
class GradientAlignment:
    """A method's loss plus weight times the misalignment of the loss gradient within the eps ball.

    Attributes:
        method: The method.
        weight: lambda; 0.2 in the source for eps 8/255 on CIFAR-10.
        eps: Radius of the ball, units of pixel intensity.

    Source: Andriushchenko and Flammarion, Understanding and Improving Fast Adversarial Training (2020), eq. (5).
    """

    method: Method
    weight: float
    eps: float

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack as the method does."""
        return self.method.attack(model, images, targets, context)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the method's loss plus the weighted misalignment."""
        step = self.method.loss(model, batch)
        return step.with_loss(step.loss + self.weight * misalignment(model, batch.images, batch.targets, self.eps))
