"""Does a graph compute what the network computes? Checked on pictures, never assumed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from export.capture.graph import INPUT_NAME, passes_of
from training.common.errors import first_line
from training.networks.self_gradient import SelfGradientNetwork

BATCH_SIZES = (1, 4, 7)
PICTURES = 28
"""Every batch size sees every picture, in whole batches."""


@dataclass(frozen=True)
class Tolerance:
    """Bounds on an output's relative error (see `Check`): for the median picture and for the worst."""

    median: float
    worst: float


TOLERANCES = {
    # Continuous functions of what they are computed from, so that only rounding separates two engines: up to 8e-7 was
    # seen on WRN-10-1 to WRN-28-10.
    "logits": Tolerance(1e-4, 1e-4),
    "plain_logits": Tolerance(1e-4, 1e-4),
    # Not continuous: where a ReLU's input lies within rounding of zero, two engines may put it on different sides, and
    # the gradient then lacks the paths through that one unit. Untrained WRN-16-2: so for 7 of 200 pictures; WRN-28-10:
    # for 13 of 30. Their gradients were off by 0.02 to 2 %, the others' by about 1e-6. A gradient that is another
    # picture's is off by 96 % and more.
    "self_gradient": Tolerance(1e-2, 1e-1),
}

REDUCED_TOLERANCES = {
    # The bundled WRN-16-2 on 28 test pictures, median and worst: float16 2e-4 and 5e-4, bfloat16 2e-3 and 6e-3, an
    # 8-bit first pass 8e-3 and 3e-2. How often the answer stays the same is another check (export.check.agreement).
    "logits": Tolerance(0.1, 0.5),
    "plain_logits": Tolerance(0.1, 0.5),
    # Likewise: 0.014 and 0.04, 0.05 and 0.15, 0.19 and 0.25. One that has underflowed to zero is off by 1; one that has
    # overflowed passes no bound.
    "self_gradient": Tolerance(0.5, 10),
}
"""For graphs in reduced precision."""

Run = Callable[[Tensor], Mapping[str, Tensor]]
"""A graph in some engine: images (N, C, H, W) to its outputs by name."""


class GraphError(RuntimeError):
    """A graph that an engine cannot load or run, or that has other outputs than it should."""


@dataclass(frozen=True)
class Check:
    """One output at one batch size against PyTorch, over all pictures.

    The relative error of a picture is the Euclidean norm of the difference over that of PyTorch's output. Each picture
    is measured by its own size, because gradients are small (1e-3 an element is usual) and an absolute bound wide
    enough for logits would let any gradient pass, a constant or a zero too.

    max_abs_error:           largest difference of any element, in the output's own units
    median_error,
    worst_error:             relative error of the median and the worst picture
    tolerance:               bounds on the two
    same_top1:               pictures with the same top class in both; None for outputs that are not logits
    pictures:                how many there were
    """

    batch: int
    output: str
    max_abs_error: float
    median_error: float
    worst_error: float
    tolerance: Tolerance
    same_top1: int | None
    pictures: int

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.median_error <= self.tolerance.median and self.worst_error <= self.tolerance.worst


@dataclass(frozen=True)
class Verification:
    """All checks of one graph."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def table(self) -> str:
        """The checks as lines of text for a terminal."""
        lines = [
            "                     largest error   relative error of a picture (tolerance)   same",
            "batch  output          of an element     median            worst              top-1",
        ]
        for check in self.checks:
            top1 = "-" if check.same_top1 is None else f"{check.same_top1}/{check.pictures}"
            median = f"{check.median_error:.1e} ({check.tolerance.median:.0e})"
            worst = f"{check.worst_error:.1e} ({check.tolerance.worst:.0e})"
            verdict = "" if check.passed else "  MISMATCH"
            lines.append(
                f"{check.batch:>5}  {check.output:<14}{check.max_abs_error:>15.1e}     {median:<18}{worst:<16}{top1:>8}"
                f"{verdict}"
            )
        return "\n".join(lines)


def verify(
    run: Run, network: SelfGradientNetwork, pictures: Tensor, tolerances: Mapping[str, Tolerance] = TOLERANCES
) -> Verification:
    """Compares a graph with the network it was made from, at batch 1, 4 and 7.

    PyTorch sees one picture at a time, so a graph in which pictures see their neighbours fails. The graph's `logits`
    are held against PyTorch's second pass for the gradient that the graph itself found; otherwise the gradient's wide
    tolerance would have to be theirs too. Top-1 agreement, in contrast, is that of the two from end to end; it is
    shown, not judged, since a tie may fall either way.

    run:        the graph
    network:    in eval mode on the CPU
    pictures:   (28, C, H, W) in [0, 1], all different
    tolerances: by output; REDUCED_TOLERANCES for a graph in reduced precision
    raises GraphError where the graph cannot be run at one of the batch sizes, or gives outputs of another shape
    """
    reference = _reference(network, pictures)
    checks = []
    for batch in BATCH_SIZES:
        parts = [run(images) for images in torch.split(pictures, batch)]
        outputs = {name: torch.cat([part[name] for part in parts]) for name in reference}
        for name, expected in reference.items():
            if outputs[name].shape != expected.shape:
                raise GraphError(
                    f"the graph's {name} for {len(pictures)} pictures at batch {batch} is "
                    f"{tuple(outputs[name].shape)}, not {tuple(expected.shape)}, as where one of the layers fixes the "
                    "batch size"
                )
            same_top1 = None
            if name.endswith("logits"):
                same_top1 = int((outputs[name].argmax(1) == expected.argmax(1)).sum())
            if name == "logits":
                expected = _second_passes(network, pictures, outputs["self_gradient"])
            difference = outputs[name] - expected
            errors = _relative_errors(difference, expected)
            checks.append(
                Check(
                    batch=batch,
                    output=name,
                    max_abs_error=float(difference.abs().max()),
                    median_error=float(errors.median()),
                    worst_error=float(errors.max()),
                    tolerance=tolerances[name],
                    same_top1=same_top1,
                    pictures=len(pictures),
                )
            )
    return Verification(tuple(checks))


def onnx_run(model: Path | bytes, output_names: tuple[str, ...], custom_operators: Path | None = None) -> Run:
    """An ONNX graph in ONNX Runtime on the CPU.

    model:        a file, or its content
    output_names: the outputs that it must have, in order
    custom_operators: a library of operators to register with ONNX Runtime
    raises GraphError where it cannot be loaded or its outputs are others
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only, and they are raised
    try:
        if custom_operators is not None:
            options.register_custom_ops_library(str(custom_operators))
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise GraphError(f"ONNX Runtime cannot load the graph: {first_line(error)}") from error
    found = tuple(output.name for output in session.get_outputs())
    if found != output_names:
        raise GraphError(f"the graph's outputs are {', '.join(found)}, expected {', '.join(output_names)}")

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            arrays = session.run(list(output_names), {INPUT_NAME: images.numpy()})
        except Exception as error:
            raise GraphError(
                f"ONNX Runtime cannot run the graph at batch {len(images)}: {first_line(error)}"
            ) from error
        return {name: torch.from_numpy(array) for name, array in zip(output_names, arrays, strict=True)}

    return run


def _reference(network: SelfGradientNetwork, pictures: Tensor) -> dict[str, Tensor]:
    """PyTorch's outputs by name, one picture at a time."""
    passes = passes_of(network)
    with torch.no_grad():
        rows = [passes(image) for image in torch.split(pictures, 1)]
    return {name: torch.cat(column) for name, column in zip(passes.output_names, zip(*rows, strict=True), strict=True)}


def _second_passes(network: SelfGradientNetwork, pictures: Tensor, gradients: Tensor) -> Tensor:
    with torch.no_grad():
        pairs = zip(torch.split(pictures, 1), torch.split(gradients, 1), strict=True)
        return torch.cat([network.second_pass(image, gradient) for image, gradient in pairs])


def _relative_errors(difference: Tensor, expected: Tensor) -> Tensor:
    """(N,), one a picture; an expected output of all zeros must be met exactly."""
    errors, sizes = difference.flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    return torch.where(errors == 0, 0.0, errors / sizes)
