"""The self-gradient network: the one definition that training, evaluation and export all use.

Source: Self-Gradient Networks, sections 3.3, 3.4 and 4.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from training.networks.errors import ArchitectureError
from training.networks.names import GradientScaling, SelfGradient
from training.networks.outputs import logits_of


def soft_loss(logits: Tensor) -> Tensor:
    """Return the sum of all logits, eq. (4).

    Args:
        logits: (N, classes).

    Returns:
        A scalar. It is summed over N too, never averaged, so that no image's gradient depends on its neighbours.
    """
    return logits.sum()


def probability_margin(logits: Tensor) -> Tensor:
    """Return the difference of the two largest probabilities of each picture: 0 is a draw, 1 is certain.

    Args:
        logits: (N, classes).

    Returns:
        (N). It is 1 where there is a single class, and NaN where a logit is.
    """
    if logits.shape[1] == 1:
        return logits[:, 0] * 0 + 1
    largest = logits.softmax(dim=1).topk(2, dim=1).values
    return largest[:, 0] - largest[:, 1]


SMALLEST_MEAN_SQUARE = 1e-24
"""Mean square below which a gradient is not normalised further.

Trained networks have about 1e-6. The bound keeps 0 / 0 away from a gradient of zero. It is far above the smallest
float32, so that an engine that flushes tiny values to zero gives the same. Above it the derivative, with the mean
square to the power of -1.5, does not overflow.
"""


def rms_normalised(gradient: Tensor) -> Tensor:
    """Divide each image's gradient (N, C, H, W) by its own root mean square. A gradient of zero stays zero.

    A gradient too small to be normalised has a derivative of zero. The true one, up to 1e12, would ruin training.
    """
    mean_square = gradient.square().mean(dim=(1, 2, 3), keepdim=True)
    # Bounds, not a sum: optimisers of graphs take a sum with such a small constant for "+ 0" and drop it. The upper one
    # matters where squares overflow to infinity, which engines treat differently.
    # The operator itself, because the smooth surrogate warns of functions named clamp, and need not smooth this one.
    numbers = torch.finfo(gradient.dtype)
    smallest = max(SMALLEST_MEAN_SQUARE, numbers.tiny)
    normalised = gradient * torch.rsqrt(torch.ops.aten.clamp(mean_square, smallest, numbers.max))
    if not (gradient.requires_grad and torch.is_grad_enabled()):
        return normalised
    return torch.where(mean_square > smallest, normalised, normalised.detach())


class Correction(nn.Module):
    """Turn the input gradient, (N, C, H, W), into a correction of the same shape that is added to the image.

    Attributes:
        scale: Size of the correction, in units of pixel intensity.
        gradient_scaling: "rms" if each image's gradient is divided by its own root mean square first, else "none".
    """

    scale: float
    gradient_scaling: GradientScaling


class SelfGradientBlock(Correction):
    """Turn the input gradient into the correction that is added to the image: `layers` times [1x1 convolution, tanh].

    It has no biases, hence block(0) = 0 exactly. It is initialised near the identity, each layer with a gain that makes
    the stack steep. The correction starts near scale * sign(gradient), as section 3.3 motivates it.

    Args:
        channels: Image channels.
        layers: 1x1-convolution + tanh pairs, five in the paper.
        scale: Factor on the last tanh, so the correction stays within [-scale, scale]. 1 is the paper's.
        gradient_scaling: "none" feeds the gradient as it is (the paper's form). "rms" divides each image's gradient by
            its own root mean square first. The raw gradient of a trained network is about 1e-3, so small that five tanh
            layers of ordinary weights pass on nothing.

    Raises:
        ArchitectureError: There is no layer, or no such scaling.

    Source: section 3.3, figure 1.
    """

    def __init__(
        self, channels: int = 3, layers: int = 5, scale: float = 1.0, gradient_scaling: GradientScaling = "none"
    ):
        super().__init__()
        if gradient_scaling not in ("none", "rms"):
            raise ArchitectureError(f"gradient_scaling must be 'none' or 'rms', not {gradient_scaling!r}")
        if layers < 1:
            raise ArchitectureError(f"a self-gradient block needs at least one layer, not {layers}")
        self.scale = scale
        self.gradient_scaling = gradient_scaling
        convolutions = [nn.Conv2d(channels, channels, 1, bias=False) for _ in range(layers)]
        self.convolutions = nn.ModuleList(convolutions)
        for convolution in convolutions:
            weight = 1.5 * torch.eye(channels) + 0.1 * torch.randn(channels, channels)
            with torch.no_grad():
                convolution.weight.copy_(weight[:, :, None, None])

    def forward(self, gradient: Tensor) -> Tensor:
        """Map a gradient (N, channels, H, W) to a correction of that shape, in units of pixel intensity."""
        if self.gradient_scaling == "rms":
            gradient = rms_normalised(gradient)
        for convolution in self.convolutions:
            gradient = torch.tanh(convolution(gradient))
        return gradient * self.scale


class SelfGradientNetwork(nn.Module):
    """Classify image + block(gradient of the network's own summed logits).

    Args:
        backbone: Any module that maps normalised images (N, 3, H, W) to logits (N, classes), or to a dict or tuple that
            holds them (training.networks.outputs).
        block: The self-gradient block, or None for a plain network (the baselines). A Defence has another correction.
        mean: Per-channel mean of images in [0, 1]. Normalising belongs to the model, never to the caller.
        std: Per-channel standard deviation.
        auto_margin: Threshold of self_gradient="auto": it runs the second pass for pictures whose plain answer's
            probability_margin is smaller. None for a network that has no such mode.

    Raises:
        ArchitectureError: The threshold is not between 0 and 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        block: Correction | None,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.25, 0.25, 0.25),
        auto_margin: float | None = None,
    ):
        super().__init__()
        if auto_margin is not None and not 0 <= auto_margin <= 1:
            raise ArchitectureError(f"auto_margin must be a difference of probabilities, 0 to 1, not {auto_margin}")
        self.backbone = backbone
        self.block = block
        self.auto_margin = auto_margin
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def plain_logits(self, images: Tensor) -> Tensor:
        """Return the logits of one pass, with the block off.

        Args:
            images: (N, 3, H, W) float in [0, 1].

        Returns:
            (N, classes).
        """
        return logits_of(self.backbone((images - self.mean) / self.std))

    def first_pass(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block-off logits and, from the same pass, the gradient of their soft loss.

        Both are differentiable with respect to parameters and images. It works under no_grad and inference_mode too.
        Batch norm uses its running statistics here even in training. Updating them in both passes breaks training;
        batch statistics would make one image's gradient depend on the others.

        Args:
            images: (N, 3, H, W) float in [0, 1].

        Returns:
            Plain logits (N, classes), and the self-gradient (N, 3, H, W) in logit units per unit of pixel intensity.

        Source: section 3.4, eq. (4); section 4.
        """
        return self.input_gradient(images, soft_loss)

    def input_gradient(self, images: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the block-off logits and, from the same pass, the gradient of a loss of them; see first_pass.

        Args:
            images: (N, 3, H, W) float in [0, 1].
            loss: From logits (N, classes) to a scalar: a sum over images, so that none depends on its neighbours.

        Returns:
            Plain logits (N, classes), and the gradient (N, 3, H, W).
        """
        if torch.is_inference_mode_enabled():
            # There torch.func.grad is silently wrong in PyTorch 2.11. A copy made outside is an ordinary tensor.
            with torch.inference_mode(False), torch.no_grad():
                return self.input_gradient(images.clone(), loss)

        def loss_and_logits(inputs: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.plain_logits(inputs)
            return loss(logits), logits

        # Fused attention kernels cannot be differentiated twice, which training needs.
        with frozen_batch_norm(self.backbone), sdpa_kernel(SDPBackend.MATH):
            if torch.is_grad_enabled():
                gradient, logits = torch.func.grad(loss_and_logits, has_aux=True)(images)
                return logits, gradient
            # torch.func.grad also keeps what a second derivative would need. Without it both passes are 13 % cheaper
            # (WRN-16-2 on a CPU), to the same last bit.
            with torch.enable_grad():
                inputs = images.detach().requires_grad_()
                value, logits = loss_and_logits(inputs)
                (gradient,) = torch.autograd.grad(value, inputs, materialize_grads=True)
            return logits.detach(), gradient

    def self_gradient(self, images: Tensor) -> Tensor:
        """Return the gradient of the soft loss with respect to the images (first pass).

        Args:
            images: (N, 3, H, W) float in [0, 1].

        Returns:
            (N, 3, H, W), logit units per unit of pixel intensity.

        Source: section 3.4, eq. (4).
        """
        return self.first_pass(images)[1]

    def second_pass(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Return the logits of the corrected images, net(images + block(gradient)), for a gradient computed before.

        Args:
            images: (N, 3, H, W) float in [0, 1].
            gradient: (N, 3, H, W), the first pass's.

        Returns:
            (N, classes).

        Raises:
            ValueError: The network has no block.
        """
        if self.block is None:
            raise ValueError("this network has no self-gradient block; use plain_logits")
        return self.plain_logits(images + self.block(gradient))

    def needs_second_pass(self, plain_logits: Tensor) -> Tensor:
        """Tell for which pictures self_gradient="auto" runs the second pass, given their plain answers.

        A plain answer that is NaN needs it too.

        Args:
            plain_logits: (N, classes).

        Returns:
            (N) of booleans.

        Raises:
            ValueError: The network has no threshold.
        """
        if self.auto_margin is None:
            raise ValueError(
                'this network has no threshold for self_gradient="auto": set its auto_margin, which '
                "training.evaluate.auto_margin.find_auto_margin finds on validation pictures"
            )
        return ~(probability_margin(plain_logits) >= self.auto_margin)

    def auto_pass(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of self_gradient="auto", and for which pictures the second pass ran.

        The plain pass answers first. Both passes run for the pictures that needs_second_pass tells, and for no others.
        It is meant for a network in eval mode: in training the plain pass would move the running statistics.

        Args:
            images: (N, 3, H, W) float in [0, 1].

        Returns:
            Logits (N, classes), and (N) of booleans.

        Raises:
            ValueError: The network has a block and no threshold.
        """
        logits = self.plain_logits(images)
        if self.block is None:
            return logits, torch.zeros(len(images), dtype=torch.bool, device=images.device)
        chosen = self.needs_second_pass(logits)
        if chosen.any():
            some = images[chosen]
            corrected = self.second_pass(some, self.self_gradient(some))
            logits = logits.index_put((chosen,), corrected.to(logits.dtype))
        return logits, chosen

    def forward(self, images: Tensor, self_gradient: SelfGradient = True) -> Tensor:
        """Return the logits: of two passes with the block on (f^1 of eq. (1)), of one with it off or absent.

        Args:
            images: (N, 3, H, W) float in [0, 1].
            self_gradient: Whether the block is on. "auto" decides for each picture; see auto_pass.

        Returns:
            (N, classes).

        Raises:
            ValueError: self_gradient is "auto" and the network has no threshold, or it is another text.
        """
        if isinstance(self_gradient, str):
            if self_gradient != "auto":
                raise ValueError(f'self_gradient must be True, False or "auto", not {self_gradient!r}')
            return self.auto_pass(images)[0]
        if self.block is None or not self_gradient:
            return self.plain_logits(images)
        return self.second_pass(images, self.self_gradient(images))


@contextmanager
def frozen_batch_norm(module: nn.Module) -> Iterator[None]:
    """Make batch norm normalise by its running statistics and leave them as they are.

    A later pass in training may move the statistics before this one is differentiated. PyTorch would then differentiate
    with the moved ones, and gradients would be off by up to 3 %. So batch norm computes with a copy here.
    """
    training = [child for child in module.modules() if isinstance(child, _BatchNorm) and child.training]
    statistics = [(child.running_mean, child.running_var) for child in training]
    for child, (mean, variance) in zip(training, statistics, strict=True):
        child.eval()
        if mean is not None and variance is not None:
            child.running_mean, child.running_var = mean.clone(), variance.clone()
    try:
        yield
    finally:
        for child, (mean, variance) in zip(training, statistics, strict=True):
            child.train()
            child.running_mean, child.running_var = mean, variance


@contextmanager
def without_running_updates(module: nn.Module) -> Iterator[None]:
    """Make batch norm leave its running statistics and its count of batches as they are.

    It normalises as it would anyway. Training attacks run in it, whatever the method. Measured over 30 batches with the
    bundled network, attacks that move the statistics shift variances by 0.7 % (one step) and 2 % (ten steps). The
    accuracy on 500 pictures, clean or under PGD-10, changes by at most three pictures.
    """
    tracking = [child for child in module.modules() if isinstance(child, _BatchNorm) and child.track_running_stats]
    for child in tracking:
        child.track_running_stats = False
    try:
        yield
    finally:
        for child in tracking:
            child.track_running_stats = True


LogitsFunction = Callable[[Tensor], Tensor]
"""A function of images (N, 3, H, W) in [0, 1] that returns logits (N, classes): all that an attack needs to know."""
