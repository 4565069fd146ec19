"""MALT: rank the wrong classes by how near a linear network would have them, and attack the nearest few.

AutoAttack targets the classes of the largest logits. A class of a smaller logit may be nearer, where its logit changes
faster. On a linear network, the L-inf distance to the border between two classes is known. It is the difference of
their logits over the L1 norm of that difference's gradient. The source finds networks linear enough, at the scale of an
attack, for ranking by it.

Source: Melamed, Yehudai and Shamir, MALT Powers Up Adversarial Attacks (2024).
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from training.attacks.auto_pgd import TargetedAutoPGD
from training.attacks.base import block_state
from training.attacks.gradient_attack import logits_function
from training.attacks.rows import CLEAN, RowFilter, RowId
from training.common.precision import at_least_float32
from training.networks.names import SelfGradient
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork

MOST_CANDIDATES = 100
"""Classes that are ranked at most, those of the largest logits: each costs a gradient."""
TARGETS = 3
"""Classes that are attacked."""


def ranked_targets(
    logits_function: LogitsFunction, images: Tensor, labels: Tensor, candidates: int = MOST_CANDIDATES
) -> Tensor:
    """Return the wrong classes by their distance on the network's linear approximation at each image, nearest first.

    Args:
        logits_function: The network as the attack sees it.
        images: (N, 3, H, W) in [0, 1].
        labels: (N).
        candidates: Classes that are ranked at most, those of the largest logits.

    Returns:
        (N, K), K the candidates, or all wrong classes where there are fewer.
    """
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = at_least_float32(logits_function(inputs))
        wrong = logits.detach().scatter(1, labels[:, None], float("-inf"))
        classes = wrong.topk(min(candidates, logits.shape[1] - 1), dim=1).indices
        differences = logits.gather(1, labels[:, None]) - logits.gather(1, classes)
        slopes = []
        for column in differences.unbind(dim=1):
            (gradient,) = torch.autograd.grad(column.sum(), inputs, retain_graph=True)
            slopes.append(gradient.abs().flatten(1).sum(dim=1))
    # A class whose difference does not change at all is out of reach.
    distances = differences.detach() / torch.stack(slopes, dim=1).clamp(min=1e-12)
    return classes.gather(1, distances.argsort(dim=1))


@dataclass(frozen=True)
class Malt:
    """APGD on the targeted difference of logits ratio, at the few classes that the ranking puts first.

    Attributes:
        targets: Classes that are attacked, one after the other, until one of the attacks fools the network.
        skip: Classes of those that are left out, the first ones, because another row has attacked them.
        block: Whether the network under attack has its block on, or "auto".
        steps: Steps at each class; 100 is AutoAttack's.
        survivors_of: Rows whose survivors alone are attacked.
    """

    targets: int = TARGETS
    skip: int = 0
    block: SelfGradient = True
    steps: int = 100
    survivors_of: tuple[RowFilter, ...] = (CLEAN,)

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills."""
        return RowId(block_state(self.block), "malt", steps=self.targets)

    def network_calls(self, classes: int) -> int:
        """Return how often the network is called on a picture that withstands the attack.

        A gradient of the ranking counts as a call.
        """
        attacked = min(self.targets, classes - 1) - self.skip
        return min(MOST_CANDIDATES, classes - 1) + self.steps * max(0, attacked)

    def parameters(self) -> dict[str, Any]:
        """Return every field, as JSON can hold it."""
        return {**asdict(self), "survivors_of": [rows.as_dict() for rows in self.survivors_of]}

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached. An image that withstood is returned as it was."""
        view = logits_function(model, "held", None, self.block, images)
        order = ranked_targets(view, images, labels)
        ascent = TargetedAutoPGD(eps, self.steps)
        best = images.detach().clone()
        active = torch.arange(len(labels), device=images.device)
        for rank in range(self.skip, min(self.targets, order.shape[1])):
            if len(active) == 0:
                break
            attacked, fooled = ascent.perturb(view, images[active], labels[active], order[active, rank])
            best[active[fooled]] = attacked[fooled]
            active = active[~fooled]
        return best
