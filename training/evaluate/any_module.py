"""Take any module and any pictures for judging: check that they go together, and leave the module as it was."""

import hashlib
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sgn_serve.common.error_text import one_line
from training.common.errors import TrainingError
from training.evaluate.measuring import Trial
from training.networks.self_gradient import SelfGradientNetwork

CHECKED_PICTURES = 100
"""Pictures that the module must answer as it should before anything is measured."""
_SUM_OF_PROBABILITIES = 1e-3
"""Largest distance of a sum of probabilities from 1. Half precision rounds by as much."""


class JudgeError(TrainingError):
    """A module or pictures that cannot be judged. The message is one line that names the fix."""


def checked_images(images: Any) -> Tensor:
    """Return pictures as a tensor, (N, C, H, W) float32 in [0, 1].

    Raises:
        JudgeError: They are anything else.
    """
    pictures = _as_tensor("images", images)
    if pictures.ndim != 4 or 0 in pictures.shape or pictures.shape[1] not in (1, 3):
        hint = ""
        if pictures.ndim == 4 and pictures.shape[3] in (1, 3):
            hint = "; these look like (N, H, W, 3): pass images.permute(0, 3, 1, 2)"
        elif pictures.ndim == 3:
            hint = "; pass images[None] to judge one picture"
        raise JudgeError(f"images must be (N, 3, H, W), or (N, 1, H, W) in grey, not {tuple(pictures.shape)}{hint}")
    if pictures.dtype == torch.uint8:
        raise JudgeError("images must be float32 in [0, 1], not uint8: pass images.float() / 255")
    if pictures.dtype != torch.float32:
        raise JudgeError(f"images must be float32 in [0, 1], not {_name(pictures.dtype)}: pass them as float32")
    low, high = pictures.min().item(), pictures.max().item()
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        fix = "divide them by 255" if low >= 0 and 2 < high <= 255 else "pass them as they are before normalisation"
        if math.isnan(low):
            raise JudgeError("images must be in [0, 1], and some of theirs are NaN; mend them or leave them out")
        raise JudgeError(
            f"images must be in [0, 1], not from {low:.4g} to {high:.4g}: {fix}; what the network normalises with "
            "belongs into the module"
        )
    return pictures.detach()


def checked_labels(labels: Any, pictures: int) -> Tensor:
    """Return labels as a tensor, (N) int64 and 0 or more.

    Raises:
        JudgeError: They are anything else.
    """
    given = _as_tensor("labels", labels)
    if given.shape != (pictures,):
        hint = ""
        if given.ndim == 2 and len(given) == pictures:  # argmax over one column would make every label 0
            hint = "; pass labels[:, 0]" if given.shape[1] == 1 else "; pass labels.argmax(1)"
        raise JudgeError(f"labels must be ({pictures}), one for each picture, not {tuple(given.shape)}{hint}")
    if given.dtype.is_floating_point or given.dtype.is_complex or given.dtype == torch.bool:
        raise JudgeError(f"labels must be whole numbers, the indices of the classes, not {_name(given.dtype)}")
    indices = given.detach().to(torch.int64)  # PyTorch cannot compare all types of whole numbers
    if indices.min() < 0:
        raise JudgeError(f"labels must be 0 or more, not {int(indices.min())}: they are the indices of the logits")
    return indices


def device_of(module: nn.Module, otherwise: torch.device) -> torch.device:
    """Return the device that a module is on, `otherwise` where it has no parameters or buffers.

    Raises:
        JudgeError: It is on several.
    """
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    if len(devices) > 1:
        names = " and ".join(sorted(map(str, devices)))
        raise JudgeError(f"the module's tensors are on {names}: move it to one device, such as module.to('cuda:0')")
    return devices.pop() if devices else otherwise


def _uninitialised(module: nn.Module) -> str | None:
    """Return the name of a parameter or buffer whose lazy layer has no size yet, None where all have one."""
    named = (*module.named_parameters(), *module.named_buffers())
    return next((name for name, tensor in named if is_lazy(tensor)), None)


def as_network(module: nn.Module) -> SelfGradientNetwork:
    """Return a module as the network that attacks know: itself if it is one, else one without a block around it.

    The mean is 0 and the standard deviation 1, so the module gets the pictures to the last bit as they are. It gets
    a copy, so that it may change its input in place.

    Raises:
        JudgeError: It is no module, or has lazy layers without a size.
    """
    if isinstance(module, nn.Module) and (lazy := _uninitialised(module)):
        raise JudgeError(
            f"the module's {lazy} belongs to a lazy layer that has seen no picture; call the module on some first"
        )
    if isinstance(module, SelfGradientNetwork):
        return module
    if not isinstance(module, nn.Module):
        raise JudgeError(
            f"the module must be a torch.nn.Module, not {type(module).__name__}: wrap a function of images in one, "
            "its parameters too"
        )
    device = device_of(module, torch.device("cpu"))
    with torch.inference_mode(False):  # the mean can be differentiated past
        return SelfGradientNetwork(module, None, mean=(0.0,), std=(1.0,)).to(device)


@contextmanager
def being_judged(module: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Put a module into the state in which it is judged, and leave it, and torch's generators, as they were.

    It also takes back what the forward writes into buffers, such as a counter. The module is in evaluation mode, and no
    parameter requires a gradient. Gradients are recorded even where the caller has switched them off.
    """
    modes = [(child, child.training) for child in module.modules()]
    free = [parameter for parameter in module.parameters() if parameter.requires_grad]
    kept = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        try:
            module.eval()
            for parameter in free:
                parameter.requires_grad_(False)
            torch.manual_seed(seed)
            yield
        finally:
            for child, mode in modes:
                child.training = mode
            for parameter in free:
                parameter.requires_grad_(True)
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)


def check_answers(
    trial: Trial[SelfGradientNetwork], class_names: tuple[str, ...], classes_from: str = "class_names"
) -> Tensor:
    """Check on some of the pictures that a module answers with logits that can be attacked, and return them.

    Args:
        trial: The module and the pictures; the module is being judged.
        class_names: Names of the classes. Empty where nobody has named them.
        classes_from: The source of their names, for the message.

    Returns:
        (n, classes), the logits of the first CHECKED_PICTURES pictures, or of fewer.

    Raises:
        JudgeError: It does not; the message says what to change.
    """
    some = trial.images[: min(CHECKED_PICTURES, trial.batch_size)]
    with torch.no_grad():
        logits: Any = _answer(trial.model, some)
    _check_shape(logits, len(some))
    if len(some) > 1:  # the last batch of an attack may be of one picture
        with torch.no_grad():
            alone = _answer(trial.model, some[:1])
        _check_shape(alone, 1)
    if not logits.is_floating_point():
        raise JudgeError(f"the module answers in {_name(logits.dtype)}, not with logits: return them before argmax")
    finite = logits.isfinite().all(dim=1)
    if not finite.any():  # a single picture's are a finding of the report, wherever it stands
        raise JudgeError(
            f"the module's logits are NaN or infinite for each of the first {len(some)} pictures: check its weights"
        )
    classes = logits.shape[1]
    if class_names and len(class_names) != classes:
        raise JudgeError(
            f"the module answers for {classes} classes, but there are {len(class_names)} in {classes_from}: give it "
            "the pictures and the classes that it was trained on"
        )
    if int(trial.labels.max()) >= classes:
        raise JudgeError(
            f"a label is {int(trial.labels.max())}, but the module answers for {classes} classes, 0 to {classes - 1}"
        )
    _check_no_probabilities(logits[finite])
    _check_gradient(trial.model, some[:2])
    return logits


def _check_shape(logits: Any, pictures: int) -> None:
    """Refuse answers that are not one tensor with two logits or more for each picture."""
    if not isinstance(logits, Tensor):
        raise JudgeError(
            f"the module answers with a {type(logits).__name__}, not with one tensor of logits: wrap it in a module "
            "that returns the logits alone"
        )
    shape, fix = tuple(logits.shape), ""
    if len(shape) == 2 and shape[0] == pictures and shape[1] > 1:
        return
    if not logits.is_floating_point():
        fix = "; return them before argmax"
    elif shape == (pictures, 1) or (shape == (pictures,) and pictures > 1):
        fix = "; for one logit x of two classes, return torch.stack([torch.zeros_like(x), x], dim=1), where x is (N)"
    elif len(shape) == 1 and pictures == 1:
        fix = "; a squeeze() without a dimension drops the batch's: name the dimensions, or use flatten(1)"
    raise JudgeError(
        f"the module answers {pictures} picture{'s' if pictures > 1 else ''} with {shape}, not with logits "
        f"(N, classes) of two classes or more{fix}"
    )


def _check_no_probabilities(logits: Tensor) -> None:
    """Refuse probabilities: the loss of an attack flattens on them, and robustness is overestimated.

    Source: Croce and Hein, AutoAttack, which warns of the same (flags_doc.md).
    """
    if bool(((logits == 0) | (logits == 1)).all() and (logits.sum(dim=1) == 1).all()):
        raise JudgeError("the module answers with 0 and 1 alone, not with logits: return them before argmax")
    away = (logits.float().sum(dim=1) - 1).abs()
    if logits.min() >= 0 and logits.max() <= 1 and away.max() <= _SUM_OF_PROBABILITIES:
        raise JudgeError(
            "the module answers with probabilities (0 to 1, their sum is 1), on which attacks fail too easily: leave "
            "its softmax out, or return their logarithm"
        )


def _check_gradient(model: SelfGradientNetwork, images: Tensor) -> None:
    inputs = images.clone().requires_grad_()
    logits = _answer(model, inputs)
    try:
        found = torch.autograd.grad(logits.sum(), inputs, allow_unused=True)[0] if logits.requires_grad else None
    except RuntimeError as error:
        raise JudgeError(f"the module cannot be differentiated by its pictures ({one_line(error)})") from error
    if found is None:
        raise JudgeError(
            "no gradient of the logits reaches the pictures, so the attacks would be blind: take torch.no_grad(), "
            "detach() or NumPy out of the module's forward"
        )


def _answer(model: SelfGradientNetwork, images: Tensor) -> Any:
    try:
        return model(images)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        shape = tuple(images.shape)
        other = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
        told = re.search(r"dtype|float|Double|Half|BFloat", str(error))
        fix = f"; its weights are {_name(other.pop())}: judge module.float()" if told and len(other) == 1 else ""
        raise JudgeError(
            f"the module fails on float32 pictures {shape} on {images.device} "
            f"({type(error).__name__}: {one_line(error)}){fix}"
        ) from error


def module_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers, with their names, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def tensors_sha256(*tensors: Tensor) -> str:
    """Return the SHA-256 of some tensors in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _as_tensor(name: str, given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given
    try:
        array = np.ascontiguousarray(given)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError):
        found = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
        if isinstance(given, list | tuple) and given:
            found += f" of {type(given[0]).__name__}"
        raise JudgeError(f"{name} must be a tensor, a NumPy array or a list of numbers, not {found}") from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
