"""Read what a run starts from, another network's backbone, and choose the place of the pictures."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.checkpoint import CheckpointInfo, load_checkpoint
from training.common.devices import free_memory
from training.config import TIMM_WEIGHTS, TrainConfig
from training.data.automatic_split import AutomaticSplit
from training.data.picture_set import PictureSet
from training.foreign.guessing import state_of
from training.foreign.kind import is_foreign
from training.foreign.matching import Match
from training.foreign.normalisation import in_words
from training.foreign.reading import ForeignWeights
from training.foreign.recognising import Recognised, recognise, recognise_weights
from training.foreign.spelling import Normalisation
from training.loop.state import TrainerError
from training.networks.gradient_oracle import GradientOracle
from training.networks.names import TIMM_PREFIX

_SHOWN_NAMES = 3
"""Names of classes that a message shows."""


@dataclass(frozen=True)
class Start:
    """Starting point of a run.

    Attributes:
        name: The file, or the network whose weights timm offers.
        weights: The backbone's tensors by name, or those of another program as they were matched.
        classes: The number of its logits.
        class_names: Their names; None where nothing says them.
        image_size: (height, width) in pixels of its pictures; None where nothing says it.
        normalisation: Mean and standard deviation to go on with; None to take those of the pictures.
        split: How the folder of its pictures was divided, where it was.
        about: Facts that were recognised in it, one sentence each.
    """

    name: str
    weights: dict[str, Tensor] | Match
    classes: int
    class_names: tuple[str, ...] | None
    image_size: tuple[int, int] | None
    normalisation: Normalisation | None
    split: AutomaticSplit | None = None
    about: tuple[str, ...] = ()

    def state_for(self, backbone: nn.Module) -> dict[str, Tensor]:
        """Return the tensors as a backbone takes them."""
        return self.weights.state_for(backbone) if isinstance(self.weights, Match) else self.weights


@dataclass(frozen=True)
class TakenOver:
    """The parts of a backbone that come from a start.

    Attributes:
        line: One line that says which weights it has.
        new_head: Names of the backbone's tensors that were made anew, because the classes are others.
    """

    line: str
    new_head: frozenset[str]


def read_start(config: TrainConfig) -> Start:
    """Read and check what training is to start from.

    It is cheap, so it comes before the pictures are read.

    Args:
        config: Its `start` names it.

    Raises:
        CheckpointError, WeightsError: The file cannot be read, or leaves something open.
        ArchitectureError: timm's weights cannot be downloaded.
        TrainerError: The network is of another architecture or activation.
    """
    path, flag = Path(config.start), config.start_flag
    if config.pretrained == TIMM_WEIGHTS:
        # Imported here, because few need it and importing it takes seconds.
        from training.networks.timm_networks import download_weights

        state = download_weights(config.arch.removeprefix(TIMM_PREFIX))
        weights = ForeignWeights(Path(f"timm's weights for {config.arch}"), state, None, None, ())
        return _foreign_start(config, recognise_weights(weights, flag, config.arch))
    if is_foreign(path):
        given = config.image_size
        return _foreign_start(config, recognise(path, flag, config.arch, None if given is None else (given, given)))
    other, info = load_checkpoint(path, flag=flag)
    if info.architecture != config.arch:
        raise TrainerError(
            f"{path} is a {info.architecture}, not a {config.arch}; pass --arch {info.architecture}, or a checkpoint "
            f"of the same --arch to {flag}"
        )
    if info.activation != config.activation or isinstance(other, GradientOracle):
        raise TrainerError(
            f"{path} is a {info.method} network with activation {info.activation}; pass a checkpoint of the same "
            f"--activation, and no gradient-oracle, to {flag}"
        )
    stays = config.pretrained or config.freeze_backbone
    return Start(
        name=str(path),
        weights=other.backbone.state_dict(),
        classes=len(info.class_names),
        class_names=info.class_names,
        image_size=info.image_size,
        normalisation=(info.mean, info.std) if stays else None,
        split=info.split,
    )


def _foreign_start(config: TrainConfig, found: Recognised) -> Start:
    """Return the start that weights of another program are.

    Raises:
        WeightsError: Their normalisation is to stay, and nothing says it.
    """
    stays = config.pretrained or config.freeze_backbone
    normalisation = found.require_normalisation(config.start_flag) if stays else None
    return Start(
        name=str(found.path),
        weights=found.match,
        classes=found.classes,
        class_names=None,
        image_size=None,
        normalisation=normalisation,
        about=tuple(line for line in found.lines if stays or not line.startswith("normalisation: ")),
    )


def take_over(start: Start, backbone: nn.Module, info: CheckpointInfo, config: TrainConfig) -> TakenOver:
    """Give a backbone the weights that training starts from, and return what it has of them.

    The head stays freshly initialised where the classes are others.

    Args:
        start: The network that it starts from.
        backbone: A freshly initialised backbone.
        info: The description of the network that it is part of.
        config: The configuration.

    Raises:
        TrainerError: The classes are others and may not be, or the network is for pictures of another size.
    """
    names = info.class_names
    others = start.classes != len(names) or start.class_names not in (None, names)
    described = f"its {_classes(start.classes, start.class_names)} are not these {_classes(len(names), names)}"
    if others and not config.pretrained:
        raise TrainerError(
            f"{start.name}: {described}; pass it to --pretrained instead of --init-from, which makes the head anew"
        )
    own, given = backbone.state_dict(), start.state_for(backbone)
    head = _head(info) if others else frozenset()
    kept = {name: tensor for name, tensor in given.items() if name not in head}
    wrong = next((name for name, tensor in kept.items() if tensor.shape != own[name].shape), None)
    if wrong is not None:
        size = start.image_size
        fix = f"--image-size {size[0]}" if size else "the --image-size that it is for"
        raise TrainerError(
            f"{start.name}: its {wrong} is {tuple(kept[wrong].shape)}, and {tuple(own[wrong].shape)} for pictures of "
            f"{info.image_size[1]}x{info.image_size[0]}; pass {fix}"
        )
    backbone.load_state_dict({**own, **kept})
    if others:
        about_head = f"head made anew for {len(names)} classes instead of its {start.classes}"
    else:
        unnamed = ", which nothing in it names" if start.class_names is None else ""
        about_head = f"head kept for its {start.classes} classes{unnamed}"
    parts = [*start.about, about_head]
    if start.normalisation is not None and not any(part.startswith("normalisation: ") for part in parts):
        parts.append(f"normalisation: {in_words(start.normalisation)} (its own)")
    return TakenOver(f"starts from {start.name}: {'; '.join(parts)}", head)


def freeze(backbone: nn.Module, head: Collection[str]) -> None:
    """Keep a backbone from learning, except for the head that was made anew for other classes.

    Args:
        backbone: The backbone.
        head: Names of the tensors of that head; none where the head is the start's.
    """
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in head)


def _classes(count: int, names: tuple[str, ...] | None) -> str:
    """Return how many classes there are, and the first of their names where they are known."""
    if names is None:
        return f"{count} classes"
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{count} classes ({shown}{', ...' if count > _SHOWN_NAMES else ''})"


def saved_normalisation(state: dict[str, Any]) -> Normalisation | None:
    """Return the normalisation that a saved run took over with its weights; None where it took that of its pictures."""
    saved = state.get("normalisation")
    return None if saved is None else (tuple(saved[0]), tuple(saved[1]))


def _head(info: CheckpointInfo) -> frozenset[str]:
    """Return the names of the tensors whose shapes depend on the number of classes."""
    classes = len(info.class_names)
    one, other = (state_of(info.architecture, number, info.image_size) for number in (classes, classes + 1))
    return frozenset(name for name, tensor in one.items() if tensor.shape != other[name].shape)


def on_device(pictures: PictureSet, device: torch.device) -> PictureSet:
    """Return the pictures on a device, or where they are, if they would take more than half of its free memory.

    Those go to the device batch by batch; see training.data.batches.
    """
    needed, free = pictures.images.numel(), free_memory(device)
    if pictures.images.device != device and free is not None and needed > free / 2:
        return pictures
    return pictures.to(device)
