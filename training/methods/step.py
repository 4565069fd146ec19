"""Define a training method: attack a batch, then compute the loss on it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from training.networks.self_gradient import SelfGradientNetwork


@dataclass(frozen=True)
class StepContext:
    """The state of training that a step depends on.

    Attributes:
        progress: Share of the training that is done, in [0, 1]. Weights that are ramped are whole at 1.
        step: Number of the step in its epoch, from 0.
        prior: (N, 3, H, W), each picture's last perturbation, units of pixel intensity, as the batch shows the picture.
            None without --attack-start prior.
    """

    progress: float = 1.0
    step: int = 0
    prior: Tensor | None = None


OUT_OF_TRAINING = StepContext()
"""The context of a step outside of a training."""


@dataclass(frozen=True)
class Batch:
    """A batch after its attack.

    Attributes:
        images: (N, 3, H, W) float32 in [0, 1], before the attack.
        attacked: (N, 3, H, W), after it. They are the images themselves where a method attacks nothing.
        targets: (N) class indices, or (N, classes) shares that sum to 1 (of mixed or perturbed labels).
        context: The step's context.
        start: (N, 3, H, W), where the attack started, for losses that need it.
        kept: (N, classes), logits of a pass that attack and loss both need, with its graph. It can be differentiated
            once, and only while the weights stay.
        noise: (N, 3, H, W), drawn with the attack and added by the loss, units of pixel intensity.
    """

    images: Tensor
    attacked: Tensor
    targets: Tensor
    context: StepContext = OUT_OF_TRAINING
    start: Tensor | None = None
    kept: Tensor | None = None
    noise: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """The loss of one batch.

    Attributes:
        loss: Scalar, to be differentiated.
        logits: (N, classes), of the images that were trained on, for the running accuracy.
        undo: Puts weights back that were moved for this loss. backward() calls it.
    """

    loss: Tensor
    logits: Tensor
    undo: Callable[[], None] | None = None

    def backward(self) -> None:
        """Add the loss's gradient to the parameters' .grad."""
        self.loss.backward()
        if self.undo is not None:
            self.undo()

    def with_loss(self, loss: Tensor) -> "Step":
        """Return this step with another loss."""
        return replace(self, loss=loss)


class Method(Protocol):
    """A training method. `loss` may be called more than once for one batch that keeps no pass."""

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack a batch.

        Args:
            model: The network in training.
            images: (N, 3, H, W) float32 in [0, 1].
            targets: See Batch.
            context: The state of training.

        Returns:
            The batch, detached.
        """
        ...

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Compute the loss on a batch that was attacked."""
        ...
