"""The fused kernel as the PyTorch operator torch.ops.sgn.self_gradient_block, on the CPU, on CUDA and on meta tensors.

`make kernels` builds the library that declares and implements it in C++. So a TorchScript file that uses it needs that
library alone, in libtorch too. It is for inference and has no derivative.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from export.errors import ExportError

BUILD_FOLDER = Path(__file__).parents[2] / "build" / "kernels"
DECLARATIONS = Path(__file__).parent / "csrc" / "operators.def"
NAMESPACE = "sgn"

_declared_here: list[torch.library.Library] = []
_loaded: list[Path] = []


class KernelsError(ExportError):
    """Fused kernels that cannot be used; the message says why and what to do."""


def library_path() -> Path:
    """Return the path that `make kernels` builds the library for this PyTorch at."""
    return BUILD_FOLDER / f"torch-{torch.__version__}" / "libsgn_torch.so"


def load() -> None:
    """Load the library, so that torch.ops.sgn.* can be run.

    Raises:
        KernelsError: The library has not been built, or cannot be loaded.
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
    """Declare torch.ops.sgn.*, for graphs that name them; they run only where the library is built.

    Raises:
        KernelsError: The library is there and cannot be loaded.
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
    """Return the operators' declarations, which C++ and Python both read from csrc/operators.def."""
    return re.findall(r'^SGN_OPERATOR\("(.*)"\)$', DECLARATIONS.read_text(), re.MULTILINE)


def _not_built(*arguments: object) -> Tensor:
    raise KernelsError(f"the fused kernels are not built for PyTorch {torch.__version__}: run `make kernels`")


def _register_shapes() -> None:
    """Register the shape of the operator's result, for meta tensors and for tracing."""
    torch.library.register_fake(f"{NAMESPACE}::self_gradient_block", _like_first)


def _like_first(first: Tensor, *others: object) -> Tensor:
    return torch.empty_like(first, memory_format=_format_of(first))


def _format_of(tensor: Tensor) -> torch.memory_format:
    """Return the memory format of the result: the first argument's, contiguous where it has neither."""
    last = not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
