"""Load a network from a file: a checkpoint of this project, or weights of another program that leave nothing open."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import file_sha256
from training.checkpoint import CheckpointInfo, build_model, load_checkpoint
from training.common.provenance import current_versions, git_commit
from training.data.datasets import IMAGE_FOLDER
from training.foreign.errors import WeightsError
from training.foreign.kind import is_foreign
from training.foreign.recognising import Recognised, convert_command, recognise
from training.foreign.spelling import Normalisation
from training.networks.backbones import usual_image_size
from training.networks.errors import ArchitectureError
from training.networks.self_gradient import SelfGradientNetwork

UNKNOWN = "unknown"
"""The data of a converted network, where nobody names it."""
CIFAR_SIZE = 32
"""Side in pixels of the pictures of backbones that are not timm's, where nobody says another."""


@dataclass(frozen=True)
class Source:
    """A file to load a network from, with what weights of another program do not say.

    Attributes:
        path: The file.
        class_names: Names of the classes in the order of the logits; None where nobody says them. A checkpoint of
            this project has its own.
        flag: The option that named the file, for messages.
        told: Whether it was printed already what was recognised in the file.
    """

    path: Path
    class_names: tuple[str, ...] | None = None
    flag: str = "--ckpt"
    told: bool = False


def load_network(
    source: Path | Source, backbone: nn.Module | None = None
) -> tuple[SelfGradientNetwork, CheckpointInfo]:
    """Load a network with its description, in eval mode on the CPU.

    Facts that are recognised in weights of another program are printed to stderr.

    Args:
        source: The file. Weights of another program need the names of their classes.
        backbone: A module of your own for a checkpoint of this project; see load_checkpoint.

    Raises:
        CheckpointError: The file is no checkpoint and no weights.
        WeightsError: It holds weights of another program that leave something open. The message names the command
            line of training.convert that takes it.
    """
    source = source if isinstance(source, Source) else Source(source)
    if backbone is not None or not is_foreign(source.path):
        if source.class_names is not None:
            raise WeightsError(f"--classes is for weights of other programs, and {source.path} is none; leave it out")
        return load_checkpoint(source.path, backbone, source.flag)
    found = recognise(source.path, source.flag)
    found.require_normalisation(source.flag)
    if source.class_names is None:
        raise WeightsError(
            f"{source.flag} {source.path}: {found.arch} of {found.classes} classes, which nothing in it names; pass "
            f"--classes here, or run `{convert_command(source.path, found.arch)}`"
        )
    side = usual_image_size(found.arch) or CIFAR_SIZE
    if not source.told:
        tell(found, side)
    return build_foreign(found, source.class_names, (side, side), source.flag)


def build_foreign(
    found: Recognised, class_names: tuple[str, ...], image_size: tuple[int, int], flag: str
) -> tuple[SelfGradientNetwork, CheckpointInfo]:
    """Build the network of foreign weights, in eval mode on the CPU, with its description.

    Args:
        found: The weights.
        class_names: Names of the classes in the order of the logits.
        image_size: (height, width) in pixels of its pictures.
        flag: The option that named the file, for messages.

    Raises:
        WeightsError: There are other classes than logits, nothing says the normalisation, or the network is for
            pictures of another size.
    """
    normalisation = found.require_normalisation(flag)
    if len(class_names) != found.classes:
        raise WeightsError(
            f"{flag} {found.path}: has {found.classes} logits, and there are {len(class_names)} classes; it is for "
            "other classes"
        )
    found.match.check_side(max(image_size))
    info = describe_foreign(found.path, found.arch, class_names, normalisation, image_size)
    try:
        network = build_model(info)
        network.backbone.load_state_dict(found.match.state_for(network.backbone))
    except (ArchitectureError, RuntimeError):
        side = usual_image_size(found.arch) or CIFAR_SIZE
        raise WeightsError(
            f"{flag} {found.path}: {found.arch} is for pictures of {side}x{side}, not of "
            f"{image_size[1]}x{image_size[0]}; pass --image-size {side}"
        ) from None
    return network.eval(), info


def describe_foreign(
    path: Path, arch: str, class_names: tuple[str, ...], normalisation: Normalisation, image_size: tuple[int, int]
) -> CheckpointInfo:
    """Return the description of a network that another program trained."""
    return CheckpointInfo(
        architecture=arch,
        class_names=class_names,
        image_size=image_size,
        mean=normalisation[0],
        std=normalisation[1],
        dataset=UNKNOWN,
        method="converted",
        epsilon=0.0,
        block=None,
        seed=0,
        recipe={
            "dataset": IMAGE_FOLDER,
            "image_size": image_size[0],
            "weights": path.name,
            "weights_sha256": file_sha256(path),
        },
        versions=current_versions(),
        git_commit=git_commit(),
    )


def tell(found: Recognised, side: int | None = None) -> None:
    """Print what was recognised in foreign weights, in one line.

    Args:
        found: The weights.
        side: Side in pixels of the pictures that the network is made for; None where they have their own.
    """
    size = [] if side is None else [f"pictures: {side}x{side}"]
    say(f"{found.path}: {'; '.join([*found.lines, *size])}")
