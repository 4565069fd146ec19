"""Run the passes of methods that need logits of two versions of a batch, without a pass too many."""

import torch
from torch import Tensor

from training.attacks.projected_gradient import cross_entropy
from training.common.precision import at_least_float32
from training.methods.step import Batch
from training.networks.self_gradient import SelfGradientNetwork, without_running_updates


def clean_and_attacked(model: SelfGradientNetwork, batch: Batch, *, joint: bool) -> tuple[Tensor, Tensor]:
    """Return the logits (N, classes) of a batch's pictures before and after their attack.

    A clean pass that the batch keeps is not run again.

    Args:
        model: The network in training.
        batch: The batch.
        joint: One pass for both, whose batch norm takes its statistics over both. Otherwise each is normalised by its
            own.
    """
    if joint:
        logits = at_least_float32(model.plain_logits(torch.cat([batch.images, batch.attacked])))
        clean, attacked = logits.chunk(2)
        return clean, attacked
    clean = at_least_float32(model.plain_logits(batch.images)) if batch.kept is None else batch.kept
    return clean, at_least_float32(model.plain_logits(batch.attacked))


def start_pass(model: SelfGradientNetwork, start: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Run the pass of a one-step attack so that the loss can use it too.

    Running statistics stay as they are: they follow the attacked pictures.

    Args:
        model: The network in training.
        start: (N, 3, H, W), where the attack starts.
        targets: See Batch.

    Returns:
        The logits (N, classes) with their graph, and the gradient of the summed cross-entropy by the pictures,
        (N, 3, H, W), detached.
    """
    inputs = start.detach().requires_grad_()
    with without_running_updates(model):
        logits = at_least_float32(model.plain_logits(inputs))
    (gradient,) = torch.autograd.grad(cross_entropy(logits, targets).sum(), inputs, retain_graph=True)
    return logits, gradient


def start_logits(model: SelfGradientNetwork, batch: Batch) -> Tensor:
    """Return the logits (N, classes) of the pictures where the attack started: those that were kept, or of a new pass.

    Raises:
        ValueError: The batch does not say where its attack started.
    """
    if batch.kept is not None:
        return batch.kept
    if batch.start is None:
        raise ValueError("the batch has no start; its method's attack records one")
    with without_running_updates(model):
        return at_least_float32(model.plain_logits(batch.start))
