"""The passes of a network that are exported, as one function of the image with named outputs."""

from torch import Tensor, nn

from export.errors import CaptureError
from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from training.networks.defences.defence import Defence
from training.networks.gradient_oracle import GradientOracle
from training.networks.self_gradient import SelfGradientNetwork


class Passes(nn.Module):
    """The passes of a network as one function of the image.

    Attributes:
        output_names: Names of the outputs, in order.
        network: The network itself.
    """

    output_names: tuple[str, ...]

    def __init__(self, network: SelfGradientNetwork):
        """Make the passes of this network."""
        super().__init__()
        self.network = network


class TwoPasses(Passes):
    """Both passes of a network with a block."""

    output_names = (LOGITS, PLAIN_LOGITS, SELF_GRADIENT)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map (N, 3, H, W) to logits (N, classes), plain logits (N, classes) and self-gradient (N, 3, H, W)."""
        plain_logits, self_gradient = self.network.first_pass(image)
        return self.network.second_pass(image, self_gradient), plain_logits, self_gradient


class WithoutGradient(Passes):
    """The answer of a defence that uses no input gradient, and its static network's."""

    output_names = (LOGITS, PLAIN_LOGITS)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map (N, 3, H, W) to logits (N, classes) and plain logits (N, classes)."""
        plain_logits, gradient = self.network.first_pass(image)
        return self.network.second_pass(image, gradient), plain_logits


class OnePass(Passes):
    """The one pass of a network without a block."""

    output_names = (PLAIN_LOGITS,)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map (N, 3, H, W) to plain logits (N, classes)."""
        return (self.network.plain_logits(image),)


def passes_of(network: SelfGradientNetwork) -> Passes:
    """Return two passes for a network with a block, one for a network without, and those of a defence.

    Raises:
        CaptureError: The network is a gradient oracle, which needs labels.
    """
    if isinstance(network, GradientOracle):
        raise CaptureError(
            "a gradient oracle needs the true label of every picture, which nobody has when it is served: "
            "export a network trained by another --method"
        )
    if isinstance(network, Defence) and not network.uses_gradient:
        return WithoutGradient(network)
    return OnePass(network) if network.block is None else TwoPasses(network)
