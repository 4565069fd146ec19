"""Named attacks, and which pictures withstand them: the measuring that validation and evaluation share."""

from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

View = Literal["full", "held", "block off", "smooth", "straight-through"]


class Classifier(Protocol):
    """What answers: a SelfGradientNetwork, or an exported graph."""

    def __call__(self, images: Tensor, self_gradient: bool = True) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] to logits (N, classes), block on or off."""
        ...


AnyClassifier = TypeVar("AnyClassifier", bound=Classifier, contravariant=True)


class AttackOn(Protocol[AnyClassifier]):
    """What a row of a robustness table needs of an attack."""

    @property
    def name(self) -> str:
        """As printed."""
        ...

    @property
    def block(self) -> bool:
        """Whether the network under attack has its block on."""
        ...

    @property
    def state(self) -> str:
        """The table's column: "block on", "block off" or "exported graph"."""
        ...

    @property
    def survivors_of(self) -> tuple[str, ...]:
        """Rows of the same column, as shell patterns; only pictures that withstood them are attacked. () for all."""
        ...

    def parameters(self) -> dict[str, Any]:
        """Everything that the row's figure depends on besides network, pictures, epsilon and seed, for JSON."""
        ...

    def perturb(self, model: AnyClassifier, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Attacked images (N, 3, H, W), detached, within the epsilon ball and [0, 1]."""
        ...


def block_state(block: bool) -> str:
    return "block on" if block else "block off"
