"""Say what an attack is to the code that runs it: an identity, a cost and a function from images to attacked images."""

from typing import Any, Protocol, TypeVar

from torch import Tensor

from training.attacks.rows import RowFilter, RowId, State
from training.networks.names import SelfGradient


class TargetModel(Protocol):
    """A network under attack: a SelfGradientNetwork or an exported graph."""

    def __call__(self, images: Tensor, self_gradient: SelfGradient = True) -> Tensor:
        """Return the logits, (N, classes), of images (N, 3, H, W) in [0, 1], with the block on, off or "auto"."""
        ...


AnyTarget = TypeVar("AnyTarget", bound=TargetModel, contravariant=True)


class AttackOn(Protocol[AnyTarget]):
    """An attack on networks of one type: everything that a row of a report needs of it."""

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills; its kind and its state are `id.kind` and `id.state`."""
        ...

    @property
    def block(self) -> SelfGradient:
        """Whether the network under attack has its block on; "auto" for self_gradient="auto"."""
        ...

    @property
    def survivors_of(self) -> tuple[RowFilter, ...]:
        """Rows of the same state whose survivors alone are attacked; () attacks every picture."""
        ...

    def network_calls(self, classes: int) -> int:
        """Return how often the network is called on a picture that withstands the attack; one that falls costs less."""
        ...

    def parameters(self) -> dict[str, Any]:
        """Return what the figure depends on besides network, pictures, epsilon and seed, as JSON can hold it."""
        ...

    def perturb(self, model: AnyTarget, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached, within the epsilon ball and [0, 1]."""
        ...


def block_state(block: SelfGradient) -> State:
    """Return the state of a network whose block is on, off or "auto"."""
    if isinstance(block, str):
        return block
    return "block on" if block else "block off"
