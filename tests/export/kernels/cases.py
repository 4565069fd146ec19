"""Cases to compare the implementations on: dtypes, memory layouts, awkward sizes, and how far apart two may be."""

from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "strided")

PICTURE_SIZES = (
    (1, 3, 32, 32),
    (2, 3, 7, 9),
    (3, 1, 1, 1),
    (1, 2, 1, 64),  # a whole tile
    (2, 4, 5, 13),  # a tile and one pixel
    (2, 3, 61, 67),  # too large for a GPU's shared memory, several blocks of threads
    (0, 3, 4, 4),
    (2, 3, 0, 5),
)


@dataclass(frozen=True)
class Tolerance:
    relative: float
    absolute: float


TOLERANCES = {
    # The causes are another tanh, other orders of summation, products and sums in one step. 7e-7 was seen; up to five
    # layers of gain 1.5 enlarge the error of a layer.
    torch.float32: Tolerance(1e-5, 5e-6),
    # Both compute in float32 and round once; beside a tie they may round to either side: one unit in the last place.
    torch.float16: Tolerance(2**-10, 5e-6),
    torch.bfloat16: Tolerance(2**-7, 5e-6),
}


def assert_close(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCES[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values, elsewhere in memory."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]
    return tensor.contiguous()


def normal(*sizes: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)) * scale
