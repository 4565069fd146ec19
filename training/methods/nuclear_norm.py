"""Nuclear-norm adversarial training (NuAT), with one step or two."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.attacks.projected_gradient import ball, cross_entropy
from training.common.precision import at_least_float32
from training.methods.passes import clean_and_attacked
from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.networks.self_gradient import SelfGradientNetwork, without_running_updates
from training.parallel.synchronised import draw_like, whole_batch


def nuclear_norm(logits: Tensor, others: Tensor) -> Tensor:
    """Return the sum of the singular values of the logits' difference, over the whole batch, for each picture.

    The sum grows with the square root of the number of pictures N, so this falls with it. At another batch size, the
    same strength needs a weight times the square root of the ratio.

    Args:
        logits: (n, classes), this process's part of the batch.
        others: (n, classes).

    Returns:
        A scalar: the norm of the (N, classes) matrix of all processes, divided by N. It is NaN or infinite where a
        value of the matrix is, so that a training that diverges is told by its loss.
    """
    difference = whole_batch(at_least_float32(logits) - at_least_float32(others))
    if not difference.isfinite().all():
        return difference.sum()  # the decomposition raises an error of its own there
    return torch.linalg.matrix_norm(difference, "nuc") / len(difference)


@dataclass(frozen=True)
class NuclearNormTraining:
    """Cross-entropy on clean pictures, plus the nuclear norm of how far an attack moves the batch's logits.

    The attack starts at a Bernoulli draw of +-eps/2. With one step, every other batch's attack raises the cross-entropy
    plus the weighted norm, and the rest the cross-entropy alone. With two, the first step raises both and the second
    the cross-entropy. The weight rises linearly from 0 over the whole training. So it does in the source's two-step
    code. Its one-step code reaches the whole weight ten epochs before the end, and keeps it.

    The attack normalises by the batch, as the loss does. So the pass on clean pictures is made once, for both. The
    source attacks with frozen batch norm, and makes that pass twice. Its one-step attack compares with clean logits
    that are normalised by the batch, and its two-step attack with logits of frozen batch norm. With WRN-16-2 in bf16
    on one core, a step takes 1.59 times that of plain one-step training. With a pass of its own for the attack it takes
    1.67 times that, and with a joint pass 1.68 times. The source's variant whose first step goes by averaged weights is
    left out.

    Attributes:
        eps: L-inf budget, units of pixel intensity.
        steps: Steps of the attack.
        step_size: Their size, units of pixel intensity; eps in the source.
        weight: The norm's weight at the end. At 64 pictures a batch, the source's code has 4.5 for one step (ResNet-18)
            and 4 for two (WRN-34-10).
        label_smoothing: Share of a label that all classes divide evenly in the loss.
        joint_pass: Whether one pass takes clean and attacked pictures.
        keep_clean_pass: Whether attack and loss share the pass on clean pictures. Weights must not move between them.

    Source: Sriramanan et al., Towards Efficient and Effective Adversarial Training (2021), with the alternation of its
    code.
    """

    eps: float
    steps: int
    step_size: float
    weight: float
    label_smoothing: float = 0.0
    joint_pass: bool = False
    keep_clean_pass: bool = True

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack the pictures. A pass that is kept moves the running statistics, as it would in the loss."""
        kept = None
        if self.keep_clean_pass and not self.joint_pass:
            kept = at_least_float32(model.plain_logits(images))
        steps = [self._nuclear(step, context) for step in range(self.steps)]
        with without_running_updates(model):
            clean = None if kept is None else kept.detach()
            if clean is None and any(steps):
                with torch.no_grad():
                    clean = model.plain_logits(images)
            low, high = ball(images, self.eps)
            if context.prior is None:
                noise = self.eps * (draw_like(images, lambda values: values.bernoulli_(0.5)) - 0.5)
            else:
                noise = context.prior
            current = torch.clamp(images + noise, low, high)
            for nuclear in steps:
                gradient = self._gradient(model, current, targets, clean if nuclear else None, context)
                current = torch.clamp(current + self.step_size * gradient.sign(), low, high)
        return Batch(images, current, targets, context, kept=kept)

    def _nuclear(self, step: int, context: StepContext) -> bool:
        """Return whether a step of the attack raises the norm too."""
        turn = step if self.steps > 1 else context.step + 1
        return turn % 2 == 0

    def _gradient(
        self,
        model: SelfGradientNetwork,
        current: Tensor,
        targets: Tensor,
        clean: Tensor | None,
        context: StepContext,
    ) -> Tensor:
        """Return the gradient of the attack's loss, with the norm where clean logits are given."""
        inputs = current.detach().requires_grad_()
        logits = model.plain_logits(inputs)
        loss = cross_entropy(logits, targets).mean()
        if clean is not None:
            loss = loss + self.weight * context.progress * nuclear_norm(logits, clean)
        return torch.autograd.grad(loss, inputs)[0]

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the clean cross-entropy plus the weighted norm."""
        clean, attacked = clean_and_attacked(model, batch, joint=self.joint_pass)
        loss = F.cross_entropy(clean, batch.targets, label_smoothing=self.label_smoothing)
        return Step(loss + self.weight * batch.context.progress * nuclear_norm(attacked, clean), attacked)
