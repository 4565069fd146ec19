"""Save and load checkpoints: weights, and the JSON that describes them, so that a file alone rebuilds its network."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sgn_serve.common.error_text import first_line, is_utf8, one_line
from sgn_serve.common.graph_format import CHECKPOINT_FORMAT, MAX_SIDE, METADATA_KEY
from sgn_serve.pictures.resizing import RESIZES
from training.common.errors import TrainingError
from training.common.exits import lacks_memory
from training.common.files import damaged_part, write_atomically
from training.common.given_paths import CHECKPOINT_OR_WEIGHTS
from training.data.automatic_split import AutomaticSplit
from training.networks.activations import with_activation
from training.networks.backbones import build_backbone
from training.networks.defences.build import DefenceConfig, build_defence
from training.networks.errors import ArchitectureError
from training.networks.gradient_oracle import GradientOracle, with_gradient_input
from training.networks.names import written_depth_and_width
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork


class CheckpointError(TrainingError):
    """A file is no checkpoint of this project. The message names the file, what was expected, and the fix."""


@dataclass(frozen=True)
class BlockConfig:
    """The self-gradient block's shape. The fields are SelfGradientBlock's arguments of the same names."""

    layers: int = 5
    scale: float = 1.0
    gradient_scaling: str = "none"


@dataclass(frozen=True)
class CheckpointInfo:
    """Everything about a trained network that is not a weight.

    Attributes:
        architecture: A name that training.networks.backbones knows, or any other for a backbone of one's own
            (build_model).
        class_names: One for each logit, in order.
        image_size: (height, width) in pixels that it was trained at.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation.
        dataset: The name of the data set that it was trained on, for readers.
        method: One of training.config.METHODS, or "converted" for weights of another program. A gradient-oracle's
            network is a GradientOracle.
        epsilon: L-inf budget it was trained for, in units of pixel intensity (0 for none).
        block: The self-gradient block; None for a plain network.
        seed: Seed of the training.
        recipe: The whole training configuration.
        history: Figures of the epoch it was taken from.
        versions: Versions of Python and the packages that made it.
        git_commit: Commit of the program that made it.
        activation: Activation of the backbone, by its name in training.networks.activations.
        resize: Treatment of a picture of another aspect: one of sgn_serve.pictures.resizing.RESIZES.
        split: How the folder of its pictures was divided, where that had no train/ and test/. Else None.
        auto_margin: Threshold of self_gradient="auto", SelfGradientNetwork's argument of that name. None for none.
        defence: The inference rule around a static network, in place of a block; see training.defend. None for none.
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
    resize: str = "stretch"
    split: AutomaticSplit | None = None
    auto_margin: float | None = None
    defence: DefenceConfig | None = None

    def to_json(self) -> str:
        """Return the description as it stands in a checkpoint's metadata.

        A resize of "stretch", and None for split, auto_margin and defence, are left out.
        """
        values = {"format": CHECKPOINT_FORMAT, **asdict(self)}
        for name in ("auto_margin", "defence"):
            if values[name] is None:
                del values[name]
        if self.resize == "stretch":
            del values["resize"]
        if self.split is None:
            del values["split"]
        else:
            values["split"] = self.split.as_values()
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "CheckpointInfo":
        """Return what to_json described.

        Raises:
            CheckpointError: The text is not to_json's. The message does not name the file, which this does not know.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"its description is not JSON: {error}") from None
        if not isinstance(values, dict) or values.pop("format", None) != CHECKPOINT_FORMAT:
            raise CheckpointError(f"its JSON does not say format {CHECKPOINT_FORMAT!r}")
        values = {"resize": "stretch", "split": None, "auto_margin": None, "defence": None, **values}
        if values["resize"] not in RESIZES:
            raise CheckpointError(f"its JSON's resize is {values['resize']!r}; known are: {', '.join(RESIZES)}")
        if differing := set(values) ^ {item.name for item in fields(cls)}:
            raise CheckpointError(f"its JSON has other fields than expected: {sorted(differing)}")
        for name in ("class_names", "image_size", "mean", "std"):
            if not isinstance(values[name], list):
                raise CheckpointError(f"its JSON's {name} is no list")
            values[name] = tuple(values[name])
        if values["block"] is not None:
            names = {item.name for item in fields(BlockConfig)}
            if not isinstance(values["block"], dict) or set(values["block"]) != names:
                raise CheckpointError(f"its JSON's block does not have the fields {sorted(names)}")
            values["block"] = BlockConfig(**values["block"])
        if values["split"] is not None:
            try:
                values["split"] = AutomaticSplit.from_values(values["split"])
            except ValueError as error:
                raise CheckpointError(f"its JSON's split cannot be used: {error}") from None
        if values["defence"] is not None:
            try:
                values["defence"] = DefenceConfig.from_values(values["defence"])
            except ArchitectureError as error:
                raise CheckpointError(f"its JSON's defence cannot be used: {error}") from None
            if values["block"] is not None:
                raise CheckpointError("its JSON has both a block and a defence, of which a network has one")
        _check_values(values)
        return cls(**values)


def _check_values(values: Mapping[str, Any]) -> None:
    """Check the values of a description that a network is built from.

    Raises:
        CheckpointError: One is of another type or out of range. The message does not name the file.
    """
    names, size, block = values["class_names"], values["image_size"], values["block"]
    if not names or not all(isinstance(name, str) and is_utf8(name) for name in names):
        raise CheckpointError("its JSON's class_names are no list of texts")
    if len(size) != 2 or not all(type(side) is int and 1 <= side <= MAX_SIDE for side in size):
        raise CheckpointError(
            f"its JSON's image_size is {str(size)[:60]}, not two whole numbers of pixels from 1 to {MAX_SIDE}"
        )
    for name in ("mean", "std"):
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values[name]):
            raise CheckpointError(f"its JSON's {name} holds something else than finite numbers")
    if len(values["mean"]) != len(values["std"]):
        raise CheckpointError("its JSON's mean and std are of different lengths")
    if block is not None and not (isinstance(block.scale, int | float) and math.isfinite(block.scale)):
        raise CheckpointError("its JSON's block has a scale that is no finite number")
    margin = values["auto_margin"]
    if margin is not None and not (type(margin) in (int, float) and 0 <= margin <= 1):  # NaN is refused too
        raise CheckpointError(f"its JSON's auto_margin is {str(margin)[:60]}, not a number from 0 to 1")
    if not isinstance(values["architecture"], str) or len(values["architecture"]) > 200:
        raise CheckpointError("its JSON's architecture is no text of at most 200 characters")


def build_model(info: CheckpointInfo, backbone: nn.Module | None = None) -> SelfGradientNetwork:
    """Build the network that `info` describes, freshly initialised.

    Args:
        info: The description.
        backbone: The network itself, where training.networks.backbones does not know `info.architecture`.

    Raises:
        ArchitectureError: The architecture or the activation is unknown, or cannot take images of info.image_size.
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
    if info.defence is not None:
        return build_defence(info.defence, backbone, info.mean, info.std, info.image_size)
    return SelfGradientNetwork(backbone, block, info.mean, info.std, info.auto_margin)


def save_checkpoint(path: Path, state: dict[str, Tensor], info: CheckpointInfo) -> None:
    """Write weights and their description to a .safetensors file, completely or not at all.

    The file carries a checksum of both, and is the same for the same network.

    Args:
        path: The file.
        state: A SelfGradientNetwork's state_dict.
        info: The description.

    Raises:
        CheckpointError: A lazy layer has no size yet.
        WriteError: The file cannot be written. The old one is left as it was.
    """
    if lazy := next((name for name, tensor in state.items() if is_lazy(tensor)), None):
        raise CheckpointError(
            f"{path}: {lazy} belongs to a lazy layer that has seen no picture; call the network on some first"
        )
    # safetensors needs contiguous memory. The channels-last format of weights is the trainer's, not the file's.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    text = info.to_json()
    metadata = {METADATA_KEY: text, CHECKSUM_KEY: checksum(tensors, text)}
    write_atomically(path, _with_metadata(safetensors.torch.save(tensors), metadata))


def checksum(state: Mapping[str, Tensor], text: str) -> str:
    """Return the SHA-256 of a checkpoint's contents: its description, and each tensor's name, type, shape and values.

    Args:
        state: Tensors on the CPU.
        text: The description as JSON.
    """
    digest = hashlib.sha256(text.encode())
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """Return a .safetensors file's content with metadata in their order.

    The library writes several of them in an order that changes from process to process.

    Source: the format's description, https://huggingface.co/docs/safetensors.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": metadata, **json.loads(content[8 : 8 + length])}, separators=(",", ":"))
    encoded = header.encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors begin aligned, as the library writes them
    return b"".join((len(encoded).to_bytes(8, "little"), encoded, memoryview(content)[8 + length :]))


def load_checkpoint(
    path: Path, backbone: nn.Module | None = None, flag: str = "--ckpt"
) -> tuple[SelfGradientNetwork, CheckpointInfo]:
    """Rebuild a network from its file, in eval mode on the CPU.

    Args:
        path: A .safetensors that save_checkpoint wrote, or a .pt state dict (read with weights_only=True). The
            description of a .pt stands beside it, under the same name ending in .json.
        backbone: A module of your own; the file's weights are loaded into it. None for an architecture that
            training.networks.backbones knows.
        flag: The option that named the file, for messages.

    Raises:
        CheckpointError: The file is anything else. The message is one line.
    """
    state, text = _read(path, flag)
    try:
        info = CheckpointInfo.from_json(text)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: not a checkpoint of this project ({error}); {_fix(flag)}") from None
    try:
        if backbone is None:
            _check_size(info, state)
        model = build_model(info, backbone)
    except (ArchitectureError, TypeError) as error:  # TypeError: the JSON's values are of other types
        raise CheckpointError(f"{path}: its network cannot be built ({error}); {_fix_architecture(flag)}") from None
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its weights do not fit the {info.architecture} that it describes ({one_line(error)}); "
            f"{_fix(flag)}"
        ) from None
    if name := not_finite(state):
        raise CheckpointError(
            f"{path}: its weights are not finite ({name} holds NaN or infinity), so it answers nothing; pass a "
            f"checkpoint of another epoch or run to {flag}, or train again with a lower --lr"
        )
    return model.eval(), info


def not_finite(state: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor with NaN or infinity in it, "" where all are finite."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return name
    return ""


def _check_size(info: CheckpointInfo, state: Mapping[str, Tensor]) -> None:
    """Check that a description has no more layers or channels than its file holds.

    It comes before the network is built: some descriptions would give no machine the memory or the time for that.

    Raises:
        ArchitectureError: It has.
        TypeError: The number of layers is no number.
    """
    tensors, widest = len(state), max((max(tensor.shape, default=1) for tensor in state.values()), default=0)
    if info.block is not None and info.block.layers > tensors:
        raise ArchitectureError(f"a block of {info.block.layers} layers, where the file holds {tensors} tensors")
    if info.defence is not None and info.defence.name == "noise-average":
        noise, shape = state.get("noise"), (info.defence.steps, len(info.mean), *info.image_size)
        if noise is None or noise.shape != shape:
            raise ArchitectureError(f"a noise-average of {shape}, which the file's tensor noise is not")
    found = written_depth_and_width(info.architecture)
    if found is None:
        return
    depth, channels = found[0], 64 * found[1]
    if depth > tensors:  # it counts convolutions, each of which has its own
        raise ArchitectureError(f"{info.architecture} is {depth} layers deep, and the file holds {tensors} tensors")
    if channels > widest:
        raise ArchitectureError(f"{info.architecture} has {channels} channels, and the file's tensors at most {widest}")


CHECKSUM_KEY = "self_gradient_sha256"
"""Metadata of a checkpoint that hold its checksum."""

_FIX_DAMAGE = "restore the file from a copy, or make it again"


def _fix(flag: str) -> str:
    return f"expected a model.safetensors written by `python -m training`: pass that file to {flag}"


def _convert(flag: str) -> str:
    return f"weights of other programs are converted by `python -m training.convert`: pass what it writes to {flag}"


def _fix_architecture(flag: str) -> str:
    return f"pass another checkpoint to {flag}, or, from Python, a backbone of your own to load_checkpoint"


def _read(path: Path, flag: str) -> tuple[dict[str, Tensor], str]:
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not a file; {_fix(flag)}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; pass {CHECKPOINT_OR_WEIGHTS} to {flag}")
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: an exported graph, not a checkpoint; {_fix(flag)}")
    if path.suffix == ".pt":
        return _read_state_dict(path, flag)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}); {_fix(flag)}") from None
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path}: a safetensors file without this project's metadata; {_convert(flag)}")
    text = metadata[METADATA_KEY]
    # The bundled checkpoint has no checksum, and cannot get one: its graph and its figures name its SHA-256.
    if CHECKSUM_KEY in metadata and metadata[CHECKSUM_KEY] != checksum(state, text):
        raise CheckpointError(f"{path}: damaged: its contents are not those of its checksum; {_FIX_DAMAGE}")
    return state, text


def _read_state_dict(path: Path, flag: str) -> tuple[dict[str, Tensor], str]:
    description = path.with_suffix(".json")
    if not description.is_file():
        raise CheckpointError(
            f"{path}: a .pt state dict needs its description beside it as {description.name}; {_convert(flag)}"
        )
    if part := damaged_part(path):
        raise CheckpointError(f"{path}: damaged: its {part} is not that of its checksum; {_FIX_DAMAGE}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or first_line(error)}); check the file"
        ) from None
    except Exception as error:  # torch raises any type, such as KeyError(101), mostly with a useless text
        if lacks_memory(error):
            raise
        raise CheckpointError(f"{path}: not a plain state dict, or damaged; {_fix(flag)}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a plain state dict of tensors; {_fix(flag)}")
    try:
        return state, description.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{description}: not readable ({first_line(error)}); {_fix(flag)}") from None
