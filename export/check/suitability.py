"""Check, before a network is captured, that its passes are what an export can promise: fixed functions with a gradient.

Each refusal is one line with the layer, the cause and the cure.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from export.errors import CaptureError
from sgn_serve.common.error_text import first_line
from training.networks.errors import ArchitectureError
from training.networks.self_gradient import SelfGradientNetwork

SUITABILITY_PICTURES = 4
"""Enough to see whether pictures depend on each other."""
SAME = 1e-3
"""Largest relative difference of an output between two runs on the same picture. Rounding gives about 1e-6."""
NO_SIGNAL = 1e-6
"""Spread of the logits' sum over pictures, as a share of the logits' size, that is rounding error only."""


def require_suitable(network: SelfGradientNetwork, pictures: Tensor, classes: int) -> None:
    """Run a network a few times in PyTorch, and refuse it where no graph could be right.

    Lazy layers get their sizes by that.

    Args:
        network: The network, in eval mode on the CPU.
        pictures: (N, C, H, W) in [0, 1], at least two, all different.
        classes: Number of its class names.

    Raises:
        CaptureError: Its backbone fails, does not return a logit for each class, or answers at random. Or a picture's
            answer depends on its neighbours, or has no gradient with respect to the image.
    """
    with torch.no_grad(), _first_layer_blamed(network):
        logits = network.plain_logits(pictures)
    _require_logits(logits, len(pictures))
    with torch.no_grad(), _first_layer_blamed(network, pictures=1):
        alone = network.plain_logits(pictures[:1])
    _require_logits(alone, 1)
    if logits.shape[1] != classes:
        raise CaptureError(
            f"the backbone returns {logits.shape[1]} logits for {classes} class names; give a name to each logit"
        )
    if network.block is not None:
        _require_gradient(network, pictures[:2])
    _require_fixed_answers(network, pictures)
    if network.block is not None:
        _require_varying_sum(logits)


@contextmanager
def _first_layer_blamed(network: nn.Module, pictures: int = 2) -> Iterator[None]:
    """Turn whatever a network raises into one line with the layer that raised it.

    Args:
        network: The network.
        pictures: Pictures with which it must work, for the message.
    """
    running: list[str] = []
    with _hooks(network, lambda name, *_: running.append(name), lambda *_: running.pop()):
        try:
            yield
        except CaptureError:
            raise
        except ArchitectureError as error:
            raise CaptureError(str(error)) from error
        except Exception as error:  # the user's network may raise anything
            layer = f"layer {running[-1]}" if running else "the network"
            raise CaptureError(
                f"{layer} fails in PyTorch itself: {first_line(error)}; mend it, so that "
                f"network(torch.rand({pictures}, 3, height, width)) works"
            ) from error


def _require_logits(logits: Tensor, pictures: int) -> None:
    """Check that an output is one row of logits for each picture.

    Raises:
        CaptureError: It is something else.
    """
    shape = tuple(logits.shape)
    if not logits.is_floating_point():
        raise CaptureError(
            f"the backbone returns whole numbers {shape}, as from argmax, which have no gradient; return the logits "
            "(N, classes) from before it"
        )
    if pictures == 1 and logits.dim() == 1:
        raise CaptureError(
            f"the backbone returns {shape} for one picture, without the batch's dimension, which squeeze() drops; "
            "name the dimensions to drop, or use flatten(1)"
        )
    if logits.dim() != 2 or shape[0] != pictures:
        raise CaptureError(
            f"the backbone returns {shape} for {pictures} pictures, not logits (N, classes); end it with pooling, "
            "nn.Flatten() and a linear layer"
        )


def _require_fixed_answers(network: SelfGradientNetwork, pictures: Tensor) -> None:
    """Check that a picture gets the same answer again, and in a batch as alone.

    Raises:
        CaptureError: It does not.
    """
    alone = _results(network, pictures[:1])
    layer = _first_difference(alone, _results(network, pictures[:1]))
    if layer:
        raise CaptureError(
            f"layer {layer} gives another result each time, as random numbers do in eval mode; call "
            "F.dropout(..., training=self.training), or use nn.Dropout"
        )
    layer = _first_difference(alone, _results(network, pictures))
    if layer:
        raise CaptureError(
            f"layer {layer} lets a picture's answer depend on its neighbours in the batch, as batch norm with "
            "track_running_stats=False does; train with running statistics, or normalise each picture by itself, as "
            "nn.GroupNorm does"
        )


def _require_gradient(network: SelfGradientNetwork, pictures: Tensor) -> None:
    """Check that the logits have a gradient with respect to the image.

    Raises:
        CaptureError: They have none.
    """
    lost: list[str] = []

    def note(name: str, inputs: Any, output: Any) -> None:
        if any(item.requires_grad for item in _tensors(inputs)) and not any(
            item.requires_grad for item in _tensors(output)
        ):
            lost.append(name)

    images = pictures.clone().requires_grad_()
    with (
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        _without_gradients_of_weights(network),
        _first_layer_blamed(network),
        _hooks(network, lambda *_: None, note),
    ):
        logits = network.plain_logits(images)
        if not logits.requires_grad:
            layer = f"layer {lost[0]}" if lost else "the backbone"
            raise CaptureError(
                f"{layer} has no gradient, as under torch.no_grad(), after .detach(), in NumPy, in rounding and in "
                "quantised layers, so the self-gradient is zero for every picture; compute it with PyTorch's "
                "differentiable functions, or export without a block"
            )


def _require_varying_sum(logits: Tensor) -> None:
    """Check that the sum of the logits, whose gradient the block needs, differs between pictures.

    Raises:
        CaptureError: It is the same for all of them but for rounding.
    """
    if not logits.isfinite().all():
        return  # verification reports this
    sums, size = logits.double().sum(1), logits.double().abs().sum(1).mean()
    if sums.max() - sums.min() > NO_SIGNAL * size or bool((logits == logits[:1]).all()):
        return  # all equal are those of a classifier of zeros, whose gradient is exactly zero
    if (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-5):
        raise CaptureError(
            "the backbone ends in a softmax: its results sum to 1 for every picture, so the self-gradient is rounding "
            "error; return the logits from before the softmax"
        )
    raise CaptureError(
        "the backbone's logits have the same sum for every picture, as where their mean is subtracted or pooling "
        "follows a normalisation, so the self-gradient is rounding error; leave that last step out"
    )


def _results(network: SelfGradientNetwork, pictures: Tensor) -> list[tuple[str, Tensor]]:
    """Return what each layer returns for the first picture, in the order in which layers end; last the logits."""
    results: list[tuple[str, Tensor]] = []

    def note(name: str, _: Any, output: Any) -> None:
        results.extend((name, item[:1].clone()) for item in _tensors(output) if item.dim() and len(item))

    with torch.no_grad(), _hooks(network, lambda *_: None, note):
        logits = network.plain_logits(pictures)
    return [*results, ("backbone", logits[:1])]


def _first_difference(first: list[tuple[str, Tensor]], second: list[tuple[str, Tensor]]) -> str:
    """Return the first layer whose results differ, where the logits, which come last, do; "" where they do not."""
    if _same(first[-1][1], second[-1][1]):
        return ""
    for (name, one), (_, other) in zip(first, second, strict=False):
        if one.shape == other.shape and not _same(one, other):
            return name
    return "backbone"


def _same(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors differ by rounding at most. NaN equals NaN."""
    if not first.is_floating_point():
        return True
    first, second = first.double().nan_to_num(), second.double().nan_to_num()
    return bool((first - second).norm() <= SAME * max(first.norm(), second.norm()))


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a layer's inputs or output."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


@contextmanager
def _hooks(network: nn.Module, before: Callable[[str], Any], after: Callable[[str, Any, Any], Any]) -> Iterator[None]:
    """Call functions before and after each layer, with its name and kind, such as `backbone.3 (BatchNorm2d)`."""
    handles: list[Any] = []

    def watch(label: str, module: nn.Module) -> None:
        def begin(*_: Any) -> None:
            before(label)

        def end(_: Any, inputs: Any, output: Any) -> None:
            after(label, inputs, output)

        handles.extend((module.register_forward_pre_hook(begin), module.register_forward_hook(end)))

    for name, module in network.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):  # a ScriptModule takes no hooks
            watch(f"{name} ({type(module).__name__})", module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_gradients_of_weights(network: nn.Module) -> Iterator[None]:
    """Freeze the weights, so that only what depends on the image has a gradient."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_()
