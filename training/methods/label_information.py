"""Train with the label information of perturbations taken out: LIET."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from training.attacks.projected_gradient import ball, cross_entropy
from training.common.precision import at_least_float32
from training.methods.passes import start_logits, start_pass
from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.networks.self_gradient import SelfGradientNetwork, frozen_batch_norm
from training.parallel.synchronised import draw_like

MASKED = (0.1, 0.5)
"""Range of the share of a pattern that noise replaces, drawn for each batch."""
STEPS_OF_A_PATTERN = 20
"""Number of steps that use the same patterns. An epoch begins with new ones, so that resuming finds the same."""


def label_patterns(model: SelfGradientNetwork, images: Tensor, eps: float) -> Tensor:
    """Return for each class the perturbation that holds what the network knows of its label.

    It is the step from a grey picture, which shows nothing of any class. With frozen batch norm each class is computed
    for itself, so at most N of them go through the network at once. A smaller batch then needs less memory here too.

    Args:
        model: The network in training.
        images: (N, 3, H, W); their size, type and device are the patterns'.
        eps: Size of the step, units of pixel intensity.

    Returns:
        (classes, 3, H, W), each value eps, -eps or 0.
    """
    grey = torch.full_like(images[:1], 0.5)
    with frozen_batch_norm(model):
        with torch.no_grad():
            classes = model.plain_logits(grey).shape[1]
        patterns = []
        for some in torch.arange(classes, device=images.device).split(len(images)):
            inputs = grey.repeat(len(some), 1, 1, 1).requires_grad_()
            loss = cross_entropy(model.plain_logits(inputs), some).sum()
            patterns.append(eps * torch.autograd.grad(loss, inputs)[0].sign())
    return torch.cat(patterns)


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of the answers, the mean over the pictures.

    Args:
        logits: (N, classes).
        others: (N, classes).
    """
    one, other = F.log_softmax(logits, dim=1), F.log_softmax(others, dim=1)
    middle = torch.logaddexp(one, other) - math.log(2)
    both = [F.kl_div(middle, shares, reduction="batchmean", log_target=True) for shares in (one, other)]
    return (both[0] + both[1]) / 2


@dataclass
class LabelInformationTraining:
    """Cross-entropy on attacked pictures, plus how far their answers are from those where the attack began.

    The attack starts at plus or minus the pattern of the picture's own label, drawn for each batch. Uniform noise
    replaces a random share of the pattern's values. One step of size eps follows. The divergence's weight rises
    linearly from 0 over the training. The pass of the attack is kept for the loss.

    Label smoothing is even here. The benchmark divides the share among the other classes at random, also in the attack.
    For eps above 8/255 it draws noise of up to 2 eps, and does not project the attacked picture back into its ball.
    Here every eps is treated alike: noise of eps, and a projection.

    Attributes:
        eps: L-inf budget and size of the step, units of pixel intensity.
        weight: The divergence's weight at the end; 100 in the benchmark.
        label_smoothing: Share of a label that all classes divide evenly in the loss.
        keep_start_pass: Whether attack and loss share the pass at the start. Weights must not move between them.

    Sources: Pan et al., Mitigating Catastrophic Overfitting in Fast Adversarial Training via Label Information
    Elimination (2025); numbers and form of the loss as in its authors' FastAT benchmark (2026).
    """

    eps: float
    weight: float
    label_smoothing: float = 0.0
    keep_start_pass: bool = True
    _patterns: Tensor | None = field(default=None, repr=False, compare=False)

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack the pictures by one step, from their label's pattern. The targets are class indices."""
        if self._patterns is None or context.step % STEPS_OF_A_PATTERN == 0:
            self._patterns = label_patterns(model, images, self.eps)
        masked = MASKED[0] + (MASKED[1] - MASKED[0]) * torch.rand(()).item()
        sign = 1 if torch.rand(()).item() < 0.5 else -1
        replaced = draw_like(images, lambda values: values.uniform_(0, 1)) < masked
        noise = draw_like(images, lambda values: values.uniform_(-self.eps, self.eps))
        start = (images + sign * torch.where(replaced, noise, self._patterns[targets])).clamp(0, 1)
        logits, gradient = start_pass(model, start, targets)
        attacked = torch.clamp(start + self.eps * gradient.sign(), *ball(images, self.eps))
        return Batch(images, attacked, targets, context, start, logits if self.keep_start_pass else None)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the cross-entropy of the attacked pictures plus the weighted divergence."""
        before = start_logits(model, batch)
        logits = at_least_float32(model.plain_logits(batch.attacked))
        loss = F.cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing)
        return Step(loss + self.weight * batch.context.progress * divergence(logits, before), logits)
