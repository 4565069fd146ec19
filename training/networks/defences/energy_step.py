"""A step to lower energy: move the image along the gradient of the log-sum-exp of the logits."""

from torch import nn

from training.networks.defences.defence import Channels, LogDensityDefence, RmsStep


class EnergyStep(LogDensityDefence):
    """Classify the image after one step along the gradient of log-sum-exp, which is the negative energy of the image.

    Taken from the source: the energy of an image, -log(sum(exp(logits))), and to refine an input by steps down the
    energy before it is classified.

    Chosen here: one step without noise, so that an answer is a fixed function of the image. The gradient is divided by
    its root mean square, because its size, about 1e-3, differs from network to network. The step's root mean square is
    the budget of the attacks, 8/255. The network is not trained as an energy-based model, as the source's is.

    Its derivative goes through both passes: log-sum-exp makes the gradient a smooth function of the logits.

    Args:
        backbone: The static network, from normalised images to logits.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation.
        step_size: Root mean square of the step, units of pixel intensity.

    Source: Grathwohl et al., Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One (2020),
    eq. (7) and section 5.4.
    """

    def __init__(self, backbone: nn.Module, mean: Channels, std: Channels, *, step_size: float = 8 / 255) -> None:
        super().__init__(backbone, RmsStep(step_size), mean, std)
