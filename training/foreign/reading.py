"""Read the weights that another program saved: unwrap them, strip prefixes, and find the normalisation inside."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sgn_serve.common.error_text import first_line
from sgn_serve.common.graph_format import METADATA_KEY
from training.common.exits import lacks_memory
from training.common.files import damaged_part
from training.foreign.errors import WeightsError
from training.foreign.kind import LFS_POINTER

SAFETENSORS = ".safetensors"

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "ema", "ema_state_dict", "state_dict_ema", "model_ema")
"""Keys under which programs save a state dict beside other things, in the order in which they are looked for."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "0.", "1.")
"""Prefixes of wrapping modules: DataParallel's, torch.compile's, and those of a model after a normalisation layer."""

NORMALISATIONS = (("mean", "std"), ("mu", "sigma"), ("mu", "std"), ("means", "sds"), ("new_mean", "new_std"))
"""Names of the two tensors of a normalisation layer."""

_OTHER_STATISTICS = re.compile(r"metric|loss|criterion|target|label")
"""Part of the names of layers whose mean and standard deviation are not those of pictures."""

_REAL = ("weight", "bias", "running_mean", "running_var")
"""Ends of the names of tensors that every layer has in floating point."""

_BRIGHTEST = 255.0
_LARGE = 10.0
"""Standard deviation above which pixels are from 0 to 255: theirs is mostly above 50, and in [0, 1] below 0.5."""

COPY = "attacker."
"""Prefix of the copy of a whole model that MadryLab's robustness library saves."""


@dataclass(frozen=True)
class ForeignWeights:
    """Content of a file of weights.

    Attributes:
        path: The file.
        tensors: The tensors by name, without the prefixes that all of them shared. Floating-point ones are float32.
        mean: Per-channel mean of a normalisation layer in the file, for pictures in [0, 1]; None where there is none.
        std: Its standard deviation.
        notes: Steps that were taken to get the tensors, one sentence each.
    """

    path: Path
    tensors: dict[str, Tensor]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    notes: tuple[str, ...]


def read_weights(path: Path, flag: str = "--weights") -> ForeignWeights:
    """Read a state dict of another program.

    Args:
        path: A .safetensors file, or one that torch.save wrote. The latter is read with weights_only=True, so that it
            cannot run code.
        flag: The option that named the file, for the message.

    Raises:
        WeightsError: There is no such file, it cannot be read, or it holds no state dict.
    """
    if not path.is_file():
        found = "a folder, not a file" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {found}; pass the weights to {flag}")
    notes: list[str] = []
    if _is_safetensors(path) or path.suffix == SAFETENSORS:
        content: Mapping[Any, Any] = _read_safetensors(path)
    else:
        content = _unwrapped(path, _read_pickle(path), notes)
    others = [f"{name} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"{path}: not all of its state dict are tensors, such as {others[0]}; save model.state_dict() alone"
        )
    empty = next((name for name, tensor in content.items() if tensor.is_meta), None)
    if empty is not None:
        raise WeightsError(
            f"{path}: {empty} has a shape and no values, as the meta device's tensors; gather the weights in their own "
            "program, and save model.state_dict() again"
        )
    tensors = {str(name): _as_float32(tensor) for name, tensor in content.items()}
    rounded = [name for name, tensor in tensors.items() if name.endswith(_REAL) and not tensor.is_floating_point()]
    if rounded:
        kind = str(tensors[rounded[0]].dtype).removeprefix("torch.")
        raise WeightsError(
            f"{path}: {rounded[0]} has {kind} numbers, as quantised or rounded weights have; save the float32 weights"
        )
    for name, tensor in tensors.items():
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise WeightsError(
                f"{path}: {name} holds numbers below 0, which no variance is; save it again, or average it anew"
            )
    tensors, mean, std = _without_wrapping(tensors, notes)
    return ForeignWeights(path, tensors, mean, std, tuple(notes))


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            ours = METADATA_KEY in (file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a safetensors file ({first_line(error)}); save it again") from None
    if ours:
        fix = "use it as it is" if path.suffix == SAFETENSORS else f"rename it to {path.with_suffix(SAFETENSORS).name}"
        raise WeightsError(f"{path}: is a checkpoint of this project already; {fix}")
    return tensors


def _is_safetensors(path: Path) -> bool:
    """Tell by a file's first bytes whether it is safetensors, whatever its name: its header's length, then JSON.

    Raises:
        WeightsError: It stands in for a file that Git LFS has not fetched, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or first_line(error)}); check the file") from None
    if start == LFS_POINTER:
        raise WeightsError(f"{path}: only a pointer of Git LFS; fetch the file itself with git lfs pull")
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # zipfile raises many kinds for what is damaged, which torch.load tells
        return False


def _read_pickle(path: Path) -> Any:
    if part := damaged_part(path):
        raise WeightsError(f"{path}: damaged, for {part} in it does not have its checksum; copy or save it again")
    if _is_torchscript(path):
        raise WeightsError(
            f"{path}: a TorchScript program, not weights alone; open it with torch.jit.load(), save its state_dict()"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Validating sparse tensor")  # it is what weights_only asks for
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it holds a {found[1]}, and reading that could run code" if found else "it is damaged, or none at all"
        raise WeightsError(
            f"{path}: not a file of tensors alone ({what}); in its own program, save model.state_dict() alone"
        ) from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or first_line(error)}); check the file") from None
    except Exception as error:  # torch raises any type, such as KeyError(101), mostly with a useless text
        if lacks_memory(error):
            raise
        raise WeightsError(f"{path}: not a file that torch.save wrote, or damaged; copy or save it again") from None


_TRAINING_STATE = {"config", "progress", "model", "optimizer"}
"""Keys of a run's state.pt, see training.loop.state."""
DEEPEST = 8
"""Wrappers around a state dict that are taken off. A file may hold itself."""


def _unwrapped(path: Path, content: Any, notes: list[str]) -> Mapping[Any, Any]:
    """Return the state dict inside what programs save."""
    if isinstance(content, Mapping) and content.keys() >= _TRAINING_STATE:
        raise WeightsError(f"{path}: the state of an unfinished training; pass the model.safetensors beside it")
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            break
        inside = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not inside:
            break
        others = f", and not {' or '.join(map(repr, inside[1:]))}" if inside[1:] else ""
        notes.append(f"took what it holds under {inside[0]!r}{others}")
        content = content[inside[0]]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        if not isinstance(content, Mapping):
            found = f"a {type(content).__name__}"
        else:
            found = f"the keys {', '.join(map(str, content))[:200]}" if content else "an empty dictionary"
        raise WeightsError(
            f"{path}: no state dict in it (it has {found}; looked for {', '.join(WRAPPERS)}); "
            "save model.state_dict() alone"
        )
    return content


def _as_float32(tensor: Tensor) -> Tensor:
    dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return dense.float() if dense.is_floating_point() else dense


def _without_wrapping(
    tensors: dict[str, Tensor], notes: list[str]
) -> tuple[dict[str, Tensor], tuple[float, ...] | None, tuple[float, ...] | None]:
    """Strip what wraps the model, from the outside in, and return the rest with mean and standard deviation."""
    mean = std = None
    if tensors.pop("n_averaged", None) is not None:
        notes.append("left out n_averaged, the counter of a weight average")
    while True:
        prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in tensors)), None)
        if prefix is not None and tensors:
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            notes.append(f"stripped the prefix {prefix!r}")
            continue
        copies = [name for name in tensors if _is_copy(name, tensors)]
        if copies:
            tensors = {name: tensor for name, tensor in tensors.items() if name not in copies}
            notes.append(f"left out {len(copies)} tensors under {COPY!r}, which are copies")
            continue
        found = None if mean is not None else _normalisation(tensors)
        if found is None:
            return tensors, mean, std
        mean, std = (tuple(float(value) for value in tensors.pop(name).flatten()) for name in found)
        notes.append(f"read the normalisation from {found[0]} and {found[1]}")
        if max(mean) > 1 or (not any(mean) and min(std) > _LARGE):
            mean, std = (tuple(value / _BRIGHTEST for value in values) for values in (mean, std))
            notes.append("divided both by 255, because they are for pixels from 0 to 255")


def _is_copy(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether a tensor is an equal copy under the prefix of MadryLab's robustness library."""
    if not name.startswith(COPY):
        return False
    inner = name.removeprefix(COPY)
    twin = tensors.get(inner, tensors.get(inner.replace("normalize.", "normalizer.", 1)))
    return twin is not None and torch.equal(twin, tensors[name])


def _normalisation(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the names of a normalisation layer's mean and standard deviation of three channels, where there is one."""
    for name, tensor in tensors.items():
        prefix, _, last = name.rpartition(".")
        if _OTHER_STATISTICS.search(prefix):
            continue
        for first, second in NORMALISATIONS:
            other = f"{prefix}.{second}" if prefix else second
            if last == first and tensor.numel() == 3 and other in tensors and tensors[other].numel() == 3:
                return name, other
    return None
