"""Does a graph compute what the network computes? Checked on pictures, never assumed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from export.capture import INPUT_NAME, passes_of
from training.model import SelfGradientNetwork

BATCH_SIZES = (1, 4, 7)
PICTURES = sum(BATCH_SIZES)

TOLERANCE = {
    # Continuous functions of what they are computed from, so that only rounding separates two engines.
    "logits": 1e-4,
    "plain_logits": 1e-4,
    # Not continuous: where a ReLU's input lies within rounding of zero, two engines may put it on different sides, and
    # the gradient loses or gains the paths through that one unit.
    "self_gradient": 1e-2,
}
"""Largest relative error of an output; see `Check`."""

Run = Callable[[Tensor], Mapping[str, Tensor]]
"""A graph in some engine: images (N, C, H, W) to its outputs by name."""


class GraphError(RuntimeError):
    """A graph that an engine cannot load or run, or that has other outputs than it should."""


@dataclass(frozen=True)
class Check:
    """One output at one batch size against PyTorch.

    max_abs_error:  largest difference of any element, in the output's own units
    relative_error: Euclidean norm of one picture's difference over that of PyTorch's output, the worst picture's. Each
                    picture is measured by its own size, because gradients are small (1e-3 an element is usual) and
                    an absolute bound wide enough for logits would let any gradient pass, a constant or a zero too
    tolerance:      bound on relative_error
    same_top1:      pictures with the same top class in both, of `batch`; None for outputs that are not logits
    """

    batch: int
    output: str
    max_abs_error: float
    relative_error: float
    tolerance: float
    same_top1: int | None

    @property
    def passed(self) -> bool:
        return self.relative_error <= self.tolerance  # False for NaN


@dataclass(frozen=True)
class Verification:
    """All checks of one graph."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def table(self) -> str:
        """The checks as lines of text for a terminal."""
        lines = [f"{'batch':>5}  {'output':<14}{'max abs error':>14}{'relative error':>16}{'tolerance':>11}  same top-1"]
        for check in self.checks:
            top1 = "-" if check.same_top1 is None else f"{check.same_top1}/{check.batch}"
            lines.append(
                f"{check.batch:>5}  {check.output:<14}{check.max_abs_error:>14.1e}{check.relative_error:>16.1e}"
                f"{check.tolerance:>11.0e}  {top1:>10}{'' if check.passed else '  MISMATCH'}"
            )
        return "\n".join(lines)


def verify(run: Run, network: SelfGradientNetwork, pictures: Tensor) -> Verification:
    """Compares a graph with the network it was made from, at batch 1, 4 and 7, on pictures that are all different.

    PyTorch sees one picture at a time, so a graph in which pictures see their neighbours fails. The graph's `logits`
    are held against PyTorch's second pass for the gradient that the graph itself found; otherwise the gradient's wide
    tolerance would have to be theirs too. Top-1 agreement, in contrast, is that of the two from end to end; it is
    shown, not judged, since a tie may fall either way.

    run:      the graph
    network:  in eval mode on the CPU
    pictures: (12, C, H, W) in [0, 1]
    raises GraphError where the graph cannot be run at one of the batch sizes
    """
    checks: list[Check] = []
    for images, batch in zip(pictures.split(list(BATCH_SIZES)), BATCH_SIZES, strict=True):
        outputs = run(images)
        reference = _reference(network, images)
        top1_reference = reference
        if "logits" in reference:
            same_gradient = _one_by_one(network.second_pass, images, outputs["self_gradient"])
            reference = reference | {"logits": same_gradient}
        for name, expected in reference.items():
            same_top1 = None
            if name.endswith("logits"):
                same_top1 = int((outputs[name].argmax(1) == top1_reference[name].argmax(1)).sum())
            difference = outputs[name] - expected
            checks.append(
                Check(
                    batch,
                    name,
                    float(difference.abs().max()),
                    float(_relative_error(difference, expected).max()),
                    TOLERANCE[name],
                    same_top1,
                )
            )
    return Verification(tuple(checks))


def onnx_run(model: Path | bytes, output_names: tuple[str, ...]) -> Run:
    """An ONNX graph in ONNX Runtime on the CPU.

    model:        a file, or its content
    output_names: the outputs that it must have, in order
    raises GraphError where it cannot be loaded or its outputs are others
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only, and they are raised
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise GraphError(f"ONNX Runtime cannot load the graph: {_first_line(error)}") from error
    found = tuple(output.name for output in session.get_outputs())
    if found != output_names:
        raise GraphError(f"the graph's outputs are {', '.join(found)}, expected {', '.join(output_names)}")

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            arrays = session.run(list(output_names), {INPUT_NAME: images.numpy()})
        except Exception as error:
            raise GraphError(
                f"ONNX Runtime cannot run the graph at batch {len(images)}: {_first_line(error)}"
            ) from error
        return {name: torch.from_numpy(array) for name, array in zip(output_names, arrays, strict=True)}

    return run


def _reference(network: SelfGradientNetwork, images: Tensor) -> dict[str, Tensor]:
    passes = passes_of(network)
    with torch.no_grad():
        rows = [passes(image) for image in images.split(1)]
    return {name: torch.cat(column) for name, column in zip(passes.output_names, zip(*rows, strict=True), strict=True)}


def _one_by_one(function: Callable[[Tensor, Tensor], Tensor], images: Tensor, gradients: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(image, gradient) for image, gradient in zip(images.split(1), gradients.split(1))])


def _relative_error(difference: Tensor, expected: Tensor) -> Tensor:
    """Per picture; an expected output of all zeros must be met exactly."""
    errors, sizes = difference.flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    return torch.where(errors == 0, 0.0, errors / sizes)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
