"""Rows of a report that are one of AutoAttack's four attacks, by the package pyautoattack.

The package's attacks are called one by one with the parameters of its "standard" version. Each is a row of its own, so
that an interrupted evaluation does not lose it. The package's driver class is left out on purpose. Its check for
dynamic defences calls sys.settrace(None) and counts in module globals. One self-gradient network would be flagged for
ever after. training.evaluate.checklist measures what the driver warns of: randomness, zero gradients, Square finding
more. A test shows that the rows have the driver's own figures.

Source: Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks (2020).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.attacks.base import TargetModel, block_state
from training.attacks.gradient_attack import logits_function
from training.attacks.names import FEWEST_CLASSES_FOR_DLR, AttackError
from training.attacks.rows import CLEAN, RowFilter, RowId, View
from training.networks.names import SelfGradient
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork

Algorithm = Literal["apgd-ce", "apgd-t", "fab-t"]
MOST_TARGETS = 9

# The package warns of zero gradients picture by picture; the checklist counts them.
_SILENT = logging.Logger("pyautoattack, silent", level=logging.CRITICAL)


@dataclass(frozen=True)
class GradientStage:
    """APGD on cross-entropy, APGD on the targeted difference of logits ratio, or targeted FAB.

    Attributes:
        algorithm: Which of the three.
        view: How its gradients see the network, as for gradient_attack.Attack.
        beta: Softplus sharpness of the smooth view.
        block: Whether the network under attack has its block on, or "auto".
        iterations: Steps of each run; 100 is AutoAttack's.
        survivors_of: Rows whose survivors alone are attacked.
    """

    algorithm: Algorithm
    view: View = "held"
    beta: float | None = None
    block: SelfGradient = True
    iterations: int = 100
    survivors_of: tuple[RowFilter, ...] = (CLEAN,)

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills."""
        return RowId(block_state(self.block), self.algorithm, view=self.view, beta=self.beta)

    def network_calls(self, classes: int) -> int:
        """Return how often the network is called on a picture that withstands the attack."""
        return self.iterations * (1 if self.algorithm == "apgd-ce" else min(MOST_TARGETS, classes - 1))

    def parameters(self) -> dict[str, Any]:
        """Return every field and the package's name, as JSON can hold it."""
        spared = [rows.as_dict() for rows in self.survivors_of]
        return {**asdict(self), "survivors_of": spared, "package": "pyautoattack"}

    def perturb(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached; a wrongly classified image is returned as it is.

        The package seeds torch itself, with the seed that torch was given last (measuring.withstood gives it one).

        Raises:
            AttackError: The network has too few classes for the targeted loss.
        """
        predict = _without_needless_gradients(
            model, logits_function(model, self.view, self.beta, self.block, images), self.block
        )
        predict = _laid_out_as(images, predict)
        # The package flattens with view(), which channels-last images do not allow.
        inputs = images.detach().contiguous()
        with torch.no_grad():
            classes = predict(inputs[:1]).shape[1]
        with frozen_parameters(model):
            attack = self._build(predict, classes, eps, inputs.device)
            return valid_only(images, attack.perturb(inputs.clone(), labels), eps)

    def _build(self, predict: LogitsFunction, classes: int, eps: float, device: torch.device) -> Any:
        from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
        from pyautoattack.fab_pt import FABAttack_PT

        options = {
            "n_restarts": 1,
            "n_iter": self.iterations,
            "eps": eps,
            "norm": "Linf",
            "seed": torch.initial_seed(),
            "device": device,
        }
        targets = min(MOST_TARGETS, classes - 1)
        if self.algorithm == "apgd-ce":
            return APGDAttack(predict, loss="ce", logger=_SILENT, **options)
        if self.algorithm == "fab-t":
            fab = FABAttack_PT(predict, n_target_classes=targets, **options)
            fab.targeted = True
            return fab
        if classes < FEWEST_CLASSES_FOR_DLR:
            raise AttackError(
                f"{self.id.title} needs at least {FEWEST_CLASSES_FOR_DLR} classes and the network has {classes}: leave "
                "it out of --attacks"
            )
        return APGDAttack_targeted(predict, n_target_classes=targets, logger=_SILENT, **options)


@dataclass(frozen=True)
class Square:
    """Random search with squares: needs answers only, so it works where gradients mislead, and on exported graphs.

    Source: Andriushchenko et al., Square Attack (2020).

    Attributes:
        block: Whether the network under attack has its block on, or "auto".
        queries: Calls of the network on each picture; 5000 is AutoAttack's.
        survivors_of: Rows whose survivors alone are attacked.
    """

    block: SelfGradient = True
    queries: int = 5000
    survivors_of: tuple[RowFilter, ...] = (CLEAN,)

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills."""
        return RowId(block_state(self.block), "square")

    def network_calls(self, classes: int) -> int:
        """Return how often the network is called on a picture that withstands the attack."""
        return self.queries

    def parameters(self) -> dict[str, Any]:
        """Return every field and the package's name, as JSON can hold it."""
        spared = [rows.as_dict() for rows in self.survivors_of]
        return {**asdict(self), "survivors_of": spared, "package": "pyautoattack"}

    def perturb(self, model: TargetModel, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached; a wrongly classified image is returned as it is."""
        from pyautoattack.square import SquareAttack

        def predict(inputs: Tensor) -> Tensor:
            # The package writes into the logits.
            return model(inputs, self_gradient=self.block).clone()

        inputs = images.detach().contiguous()
        attack = SquareAttack(
            _laid_out_as(images, predict),
            norm="Linf",
            n_queries=self.queries,
            eps=eps,
            p_init=0.8,
            n_restarts=1,
            seed=torch.initial_seed(),
            device=inputs.device,
            resc_schedule=False,
        )
        with torch.no_grad():
            return valid_only(images, attack.perturb(inputs.clone(), labels), eps)


def valid_only(images: Tensor, attacked: Tensor, eps: float) -> Tensor:
    """Return `attacked`, but the image itself where the result is not a picture in the epsilon ball, or is NaN."""
    attacked = attacked.detach()
    inside = ((attacked - images).abs() <= eps + 1e-6) & (attacked >= 0) & (attacked <= 1)
    valid = inside.flatten(1).all(dim=1)
    return torch.where(valid[:, None, None, None], attacked, images)


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Freeze all parameters in the block: FAB calls backward(), which would add to their gradients."""
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


def _without_needless_gradients(
    model: SelfGradientNetwork, view: LogitsFunction, block: SelfGradient
) -> LogitsFunction:
    """Return `view`, but the network itself where no gradient is wanted: the same logits at a lower price."""

    def logits(images: Tensor) -> Tensor:
        return view(images) if torch.is_grad_enabled() and images.requires_grad else model(images, self_gradient=block)

    return logits


def _laid_out_as(images: Tensor, function: LogitsFunction) -> LogitsFunction:
    """Return the function with its pictures laid out in memory as `images` are: channels last is a tenth faster."""
    if not images.is_contiguous(memory_format=torch.channels_last):
        return function
    return lambda inputs: function(inputs.contiguous(memory_format=torch.channels_last))
