"""The fused kernels as PyTorch operators: torch.ops.sgn.*, on the CPU, on CUDA and on meta tensors.

`make kernels` builds the library that holds them; C++ declares and implements them there, so a TorchScript file that
uses them needs that library alone, in libtorch too. For inference: they have no derivatives.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from export.kernels.reference import BITS

BUILD_FOLDER = Path(__file__).parents[2] / "build" / "kernels"
DECLARATIONS = Path(__file__).parent / "csrc" / "operators.def"
NAMESPACE = "sgn"

_declared_here: list[torch.library.Library] = []
_loaded: list[Path] = []


class KernelsError(RuntimeError):
    """Fused kernels that cannot be used; the message says why and what to do."""


def library_path() -> Path:
    """Where `make kernels` puts the library for this PyTorch."""
    return BUILD_FOLDER / f"torch-{torch.__version__}" / "libsgn_torch.so"


def load() -> None:
    """Makes torch.ops.sgn.* ready to run.

    raises KernelsError where the library has not been built, or cannot be loaded
    """
    if _loaded:
        return
    path = library_path()
    if not path.is_file():
        raise KernelsError(f"the fused kernels are not built for PyTorch {torch.__version__}: run `make kernels`")
    if _declared_here:
        raise KernelsError("the fused kernels were built after this process declared them: start Python again")
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise KernelsError(f"{path} cannot be loaded ({error}): remove it and run `make kernels`") from None
    _loaded.append(path)
    _register_shapes()


def declare() -> None:
    """Makes torch.ops.sgn.* known, for graphs that mention them: they run only where the library is built.

    raises KernelsError where the library is there and cannot be loaded
    """
    if _loaded or _declared_here:
        return
    if library_path().is_file():
        load()
        return
    library = torch.library.Library(NAMESPACE, "DEF")
    for schema in schemas():
        name = library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, _not_built, "CompositeExplicitAutograd")
    _declared_here.append(library)
    _register_shapes()


def schemas() -> list[str]:
    """The operators' declarations, which C++ and Python both read from csrc/operators.def."""
    return re.findall(r'^SGN_OPERATOR\("(.*)"\)$', DECLARATIONS.read_text(), re.MULTILINE)


def _not_built(*arguments: object) -> Tensor:
    raise KernelsError(f"the fused kernels are not built for PyTorch {torch.__version__}: run `make kernels`")


def _register_shapes() -> None:
    """What the operators return, without computing it: for meta tensors and for tracing."""
    torch.library.register_fake(f"{NAMESPACE}::self_gradient_block", _like_first)
    torch.library.register_fake(f"{NAMESPACE}::scale_shift_relu", _like_first_and_mask)
    torch.library.register_fake(f"{NAMESPACE}::mask_scale_add", _like_first)


def _like_first(first: Tensor, *others: object) -> Tensor:
    return torch.empty_like(first, memory_format=_format_of(first))


def _like_first_and_mask(features: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = features.shape
    mask = features.new_empty(batch, (channels + BITS - 1) // BITS, height, width, dtype=torch.uint8)
    return _like_first(features), mask.contiguous(memory_format=_format_of(features))


def _format_of(tensor: Tensor) -> torch.memory_format:
    """The memory format of the results: the first argument's, contiguous where it has neither."""
    last = not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
