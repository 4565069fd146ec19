"""Checkpoints: weights plus the JSON that says what they are, so that a network is rebuilt from its file alone."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sgn_serve.graph_format import METADATA_KEY
from training.common.files import write_atomically
from training.networks.activations import with_activation
from training.networks.backbones import build_backbone
from training.networks.gradient_oracle import GradientOracle, with_gradient_input
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

FORMAT = "self-gradient-checkpoint/1"


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours; the message names the file, what was expected, and the fix."""


@dataclass(frozen=True)
class BlockConfig:
    """The self-gradient block's shape; the fields are SelfGradientBlock's arguments."""

    layers: int = 5
    scale: float = 1.0
    gradient_scaling: str = "none"


@dataclass(frozen=True)
class CheckpointInfo:
    """Everything about a trained network that is not a weight.

    architecture: a name that training.networks.backbones knows, or any other for a backbone of one's own (build_model)
    class_names:  one a logit, in order
    image_size:   (height, width) in pixels that it was trained at
    mean, std:    per-channel normalisation of images in [0, 1]
    dataset:      what it was trained on, as a reader should see it
    method:       one of training.config.METHODS; a gradient-oracle's network is a GradientOracle
    epsilon:      L-inf budget it was trained for, in units of pixel intensity (0 for none)
    block:        the self-gradient block, None for a plain network
    recipe:       the whole training configuration
    history:      figures of the epoch it was taken from
    versions:     of Python and the packages that made it
    activation:   of the backbone, by its name in training.networks.activations
    """

    architecture: str
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset: str
    method: str
    epsilon: float
    block: BlockConfig | None
    seed: int
    recipe: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str = ""
    activation: str = "relu"

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "CheckpointInfo":
        """raises ValueError for text that is not to_json's"""
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f"its JSON does not say format {FORMAT!r}")
        values = _OLDER_FILES_MEAN | values
        wanted = {item.name for item in fields(cls)}
        if set(values) != wanted:
            raise ValueError(f"its JSON has other fields than expected: {sorted(set(values) ^ wanted)}")
        for name in ("class_names", "image_size", "mean", "std"):
            values[name] = tuple(values[name])
        if values["block"] is not None:
            values["block"] = BlockConfig(**values["block"])
        return cls(**values)


# What files say by leaving out a field that came later.
_OLDER_FILES_MEAN: dict[str, Any] = {"activation": "relu"}


def build_model(info: CheckpointInfo, backbone: nn.Module | None = None) -> SelfGradientNetwork:
    """The network that `info` describes, freshly initialised.

    backbone: the network itself, where `info.architecture` is none that training.networks.backbones knows
    raises ValueError for an architecture or activation that is not known, or that cannot take images of info.image_size
    """
    block = None
    if info.block is not None:
        block = SelfGradientBlock(
            channels=len(info.mean),
            layers=info.block.layers,
            scale=info.block.scale,
            gradient_scaling=info.block.gradient_scaling,  # type: ignore[arg-type]
        )
    if backbone is None:
        backbone = with_activation(
            build_backbone(info.architecture, len(info.class_names), info.image_size), info.activation
        )
    if info.method == "gradient-oracle":
        return GradientOracle(with_gradient_input(backbone, len(info.mean)), info.mean, info.std)
    return SelfGradientNetwork(backbone, block, info.mean, info.std)


def save_checkpoint(path: Path, state: dict[str, Tensor], info: CheckpointInfo) -> None:
    """Writes weights and info to a .safetensors file, whole or not at all.

    state: a SelfGradientNetwork's state_dict
    raises WriteError, with the old file left as it was
    """
    # safetensors wants plain contiguous memory; channels-last weights are a layout of the trainer, not of the file.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_atomically(path, safetensors.torch.save(tensors, metadata={METADATA_KEY: info.to_json()}))


def load_checkpoint(path: Path, backbone: nn.Module | None = None) -> tuple[SelfGradientNetwork, CheckpointInfo]:
    """Rebuilds a network, in eval mode on the CPU, from its file.

    path:     a .safetensors written by save_checkpoint, or a .pt state dict (read with weights_only=True) with its
              info JSON beside it under the same name ending in .json
    backbone: a module of your own that the file holds the weights of; they are loaded into it. None for an
              architecture that training.networks.backbones knows
    raises CheckpointError, one line, for anything else
    """
    state, text = _read(path)
    try:
        info = CheckpointInfo.from_json(text)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this project ({error}); {_FIX}") from None
    try:
        model = build_model(info, backbone)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its network cannot be built ({error}); {_FIX_ARCHITECTURE}") from None
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: its weights do not fit the {info.architecture} that it describes ({detail[:300]}); {_FIX}"
        ) from None
    return model.eval(), info


_FIX = "expected a model.safetensors written by `python -m training`: pass that file to --ckpt"
_FIX_ARCHITECTURE = "pass another checkpoint to --ckpt, or, from Python, a backbone of your own to load_checkpoint"


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; {_FIX}")
    if path.suffix == ".pt":
        return _read_state_dict(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}); {_FIX}") from None
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path}: a safetensors file without this project's metadata; {_FIX}")
    return state, metadata[METADATA_KEY]


def _read_state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    description = path.with_suffix(".json")
    if not description.is_file():
        raise CheckpointError(f"{path}: a .pt state dict needs its description beside it as {description.name}; {_FIX}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, runtime and attribute errors for the many ways to be foreign
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a plain state dict ({detail}); {_FIX}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a plain state dict of tensors; {_FIX}")
    return state, description.read_text()
