"""Check on pictures that a graph computes what the network computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from export.errors import ExportError
from export.network_passes import Passes
from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from training.networks.self_gradient import SelfGradientNetwork

BATCH_SIZES = (1, 4, 7)


@dataclass(frozen=True)
class Tolerance:
    """Bounds on an output's relative error (see `Check`).

    Attributes:
        median: Bound for the median picture.
        worst: Bound for the worst picture.
    """

    median: float
    worst: float


TOLERANCES = {
    # Continuous functions of their inputs, so that only rounding separates two engines: up to 8e-7 was seen on WRN-10-1
    # to WRN-28-10.
    LOGITS: Tolerance(1e-4, 1e-4),
    PLAIN_LOGITS: Tolerance(1e-4, 1e-4),
    # It is not continuous: two engines may put a ReLU's input that is almost zero on different sides. The
    # gradient then lacks the paths through that one unit. This was seen for 7 of 200 pictures on an untrained WRN-16-2
    # and for 13 of 30 on WRN-28-10. Their gradients were off by 0.02 to 2 %, the others' by about 1e-6. The gradient of
    # another picture is off by 96 % and more.
    SELF_GRADIENT: Tolerance(1e-2, 1e-1),
}
"""Tolerances by output, for graphs in float32."""

REDUCED_TOLERANCES = {
    # The bundled WRN-16-2 on 28 test pictures, median and worst: float16 2e-4 and 5e-4, bfloat16 2e-3 and 6e-3. How
    # often the answer stays the same is another check (export.check.agreement).
    LOGITS: Tolerance(0.1, 0.5),
    PLAIN_LOGITS: Tolerance(0.1, 0.5),
    # The same pictures: float16 0.014 and 0.04, bfloat16 0.05 and 0.15. A gradient that has underflowed to zero is off
    # by 1; one that has overflowed passes no bound.
    SELF_GRADIENT: Tolerance(0.5, 10),
}
"""Tolerances by output, for graphs in reduced precision."""

GraphRunner = Callable[[Tensor], Mapping[str, Tensor]]
"""A graph in some engine: maps images (N, C, H, W) to its outputs by name."""


@dataclass(frozen=True)
class Check:
    """Comparison of one output at one batch size with PyTorch's, over all pictures.

    A picture's relative error is the Euclidean norm of the difference, divided by the norm of PyTorch's output. Errors
    are relative because gradients are small: about 1e-3 for each element. An absolute bound that is wide enough for
    logits would accept any gradient, a constant and zero included.

    Attributes:
        batch: The batch size.
        output: The output's name.
        max_abs_error: Largest difference of any element, in the output's own units.
        median_error: Relative error of the median picture.
        worst_error: Relative error of the worst picture.
        tolerance: Bounds on these two.
        same_top1: Number of pictures with the same top class in both; None for outputs that are not logits.
        pictures: Number of pictures.
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
        """Whether both errors are within their bounds; False for NaN."""
        return self.median_error <= self.tolerance.median and self.worst_error <= self.tolerance.worst


@dataclass(frozen=True)
class Verification:
    """All checks of one graph."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def table(self) -> str:
        """Return the checks as lines of text for a terminal."""
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


class VerificationError(ExportError):
    """A graph that does not compute what the network computes; nothing was written.

    Attributes:
        verification: The checks, or None where the graph could not even be run.
    """

    exit_status = 1

    def __init__(self, message: str, verification: Verification | None = None):
        """Make an error with the checks that failed, if there were any."""
        super().__init__(message)
        self.verification = verification

    def details(self) -> str:
        """Return the table of the checks, if there were any."""
        return "" if self.verification is None else self.verification.table()


class UnusableGraphError(VerificationError):
    """A graph that an engine cannot load or run, or whose outputs are not the expected ones."""


def verify(
    runner: GraphRunner, passes: Passes, pictures: Tensor, tolerances: Mapping[str, Tolerance] = TOLERANCES
) -> Verification:
    """Compare a graph with the passes that were captured, at batch 1, 4 and 7.

    PyTorch gets one picture at a time, so a graph in which a picture depends on its neighbours fails. The graph's
    logits are compared with PyTorch's second pass on the gradient that the graph itself found. Compared with PyTorch's
    own gradient, they would need the gradient's wide tolerance. Top-1 agreement is that of both passes together; it is
    shown and not judged, since rounding may decide a tie either way.

    Args:
        runner: The graph.
        passes: The captured passes, of a network in eval mode on the CPU.
        pictures: (PICTURES, C, H, W) in [0, 1], all different.
        tolerances: Bounds by output; REDUCED_TOLERANCES for a graph in reduced precision.

    Raises:
        VerificationError: The network's own outputs are not finite.
        UnusableGraphError: The graph cannot be run at one of the batch sizes, or gives outputs of another shape.
    """
    reference = _reference(passes, pictures)
    for name, expected in reference.items():
        bad = int((~expected.isfinite().flatten(1).all(dim=1)).sum())
        if bad:
            raise VerificationError(
                f"the network's own {name} are NaN or infinite for {bad} of {len(pictures)} pictures; "
                "export a checkpoint of another epoch or run"
            )
    checks = []
    for batch in BATCH_SIZES:
        parts = [runner(images) for images in torch.split(pictures, batch)]
        outputs = {name: torch.cat([part[name] for part in parts]) for name in reference}
        for name, expected in reference.items():
            if outputs[name].shape != expected.shape:
                raise UnusableGraphError(
                    f"the graph's {name} for {len(pictures)} pictures at batch {batch} is "
                    f"{tuple(outputs[name].shape)}, not {tuple(expected.shape)}, as where one of the layers fixes the "
                    "batch size"
                )
            same_top1 = None
            if name in (LOGITS, PLAIN_LOGITS):
                same_top1 = int((outputs[name].argmax(1) == expected.argmax(1)).sum())
            if name == LOGITS and SELF_GRADIENT in outputs:
                expected = _second_passes(passes.network, pictures, outputs[SELF_GRADIENT])
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


def _reference(passes: Passes, pictures: Tensor) -> dict[str, Tensor]:
    """Return PyTorch's outputs by name, computed one picture at a time."""
    with torch.no_grad():
        rows = [passes(image) for image in torch.split(pictures, 1)]
    return {name: torch.cat(column) for name, column in zip(passes.output_names, zip(*rows, strict=True), strict=True)}


def _second_passes(network: SelfGradientNetwork, pictures: Tensor, gradients: Tensor) -> Tensor:
    with torch.no_grad():
        pairs = zip(torch.split(pictures, 1), torch.split(gradients, 1), strict=True)
        return torch.cat([network.second_pass(image, gradient) for image, gradient in pairs])


def _relative_errors(difference: Tensor, expected: Tensor) -> Tensor:
    """Return each picture's error, (N,); where the expected output is all zeros, any difference is infinite."""
    errors, sizes = difference.flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    return torch.where(errors == 0, 0.0, errors / sizes)
