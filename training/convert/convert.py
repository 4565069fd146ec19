"""Convert weights of another program to a checkpoint, as the command line asks."""

from dataclasses import replace

import torch

from sgn_serve.common.error_text import say, visible
from training.checkpoint import BlockConfig, CheckpointInfo, build_model, save_checkpoint
from training.common.errors import TrainingError
from training.common.exits import MORE_MEMORY, allocations_told, print_ending
from training.config import TrainConfig
from training.convert.options import Options
from training.data.class_names import CIFAR10, read_class_names
from training.foreign.errors import WeightsError
from training.foreign.guessing import guess_architecture
from training.foreign.loading import CIFAR_SIZE, describe_foreign
from training.foreign.matching import Match, match
from training.foreign.normalisation import NONE, in_words, is_possible, known_normalisation
from training.foreign.one_model import check_one_model
from training.foreign.reading import ForeignWeights, read_weights
from training.foreign.recognising import other_architecture
from training.foreign.spelling import Normalisation, Spelling
from training.foreign.spellings import refuse_other_networks
from training.networks.backbones import usual_image_size
from training.networks.errors import ArchitectureError

_FEW = 0.1
"""Share of the tensors up to which it is rather the file that is wrong than the architecture."""
BLOCK = BlockConfig(TrainConfig.block_layers, TrainConfig.block_scale, TrainConfig.gradient_scaling)
"""The block that --add-block adds: the form that this project trains."""


def convert(options: Options) -> list[str]:
    """Write the checkpoint, and return what was done, one line each.

    Raises:
        OptionError, PathError: The weights are not there, or are the file to write; or the classes are none.
        WeightsError: The weights cannot be read, or do not fit the network.
        WriteError: The checkpoint cannot be written.
    """
    options.check_files()
    names = read_class_names(options.classes)
    weights = read_weights(options.weights)
    refuse_other_networks(weights.tensors)
    check_one_model(weights.tensors)
    lines = [f"{weights.path}: {note}" for note in weights.notes]
    arch = options.arch
    if arch is None:
        arch = guess_architecture(weights.tensors)
        lines.append(f"took it for {arch}, by its names and shapes")
    info = _describe(options, arch, names)
    torch.manual_seed(info.seed)
    try:
        network = build_model(info)
    except ArchitectureError as error:
        raise WeightsError(str(error)) from None
    found = match(weights.tensors, arch, network.backbone.state_dict())
    _require_complete(found, weights, arch, len(names))
    found.check_side(max(info.image_size))
    mean_and_std, source = _normalisation(options, weights, arch, found.spelling)
    lines.append(f"normalisation: {source}")
    info = replace(info, mean=mean_and_std[0], std=mean_and_std[1])
    network.mean.copy_(torch.tensor(info.mean).view(1, -1, 1, 1))
    network.std.copy_(torch.tensor(info.std).view(1, -1, 1, 1))
    network.backbone.load_state_dict(found.state_for(network.backbone))
    found.check_numbers(str(weights.path))
    lines += found.notes
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replaced = options.out.exists()
    save_checkpoint(options.out, network.state_dict(), info)
    lines.append(f"names: {found.spelling.title}")
    size = f"usual for {arch}" if options.image_size is None else "by --image-size"
    lines.append(f"pictures: {info.image_size[1]}x{info.image_size[0]} ({size})")
    block = "a block of random weights added" if options.add_block else "no block"
    done = "replaced" if replaced else "wrote"
    lines.append(f"{done} {options.out}: {arch}, {len(found.tensors)} tensors, {len(names)} classes, {block}")
    return lines


def _describe(options: Options, arch: str, names: tuple[str, ...]) -> CheckpointInfo:
    """Return the description of the checkpoint, whose normalisation is not known yet."""
    cifar10 = options.classes == CIFAR10
    side = usual_image_size(arch) if options.image_size is None else options.image_size
    side = CIFAR_SIZE if side is None else side
    info = describe_foreign(options.weights, arch, names, NONE, (side, side))
    recipe = {**info.recipe, "dataset": CIFAR10, "image_size": None} if cifar10 else info.recipe
    return replace(
        info,
        dataset=options.dataset_name or ("CIFAR-10" if cifar10 else info.dataset),
        epsilon=options.epsilon,
        block=BLOCK if options.add_block else None,
        recipe=recipe,
        activation=options.activation,
    )


def _normalisation(
    options: Options, weights: ForeignWeights, arch: str, spelling: Spelling
) -> tuple[Normalisation, str]:
    """Return mean and standard deviation, and both in words with where they are from.

    Raises:
        WeightsError: A standard deviation is not above zero.
    """
    known = known_normalisation(weights, arch, spelling)
    if options.mean is not None and options.std is not None:
        found, source = (options.mean, options.std), "by --mean and --std"
        if weights.mean is not None and weights.std is not None:
            source += f", in place of the file's own {in_words((weights.mean, weights.std))}"
    elif known is not None:
        found, source = known
    else:
        found = NONE
        source = "none, for the file has none; pass --mean and --std if its program normalises outside the network"
    if not is_possible(found):
        raise WeightsError(
            f"mean and standard deviation are {in_words(found)}, and the latter must be above 0; pass --mean and --std"
        )
    return found, f"{in_words(found)} ({source})"


def _require_complete(found: Match, weights: ForeignWeights, arch: str, classes: int) -> None:
    """Raise WeightsError unless every tensor of the file and of the network has its counterpart."""
    if not found.problems:
        return
    logits = found.logits_in_file
    if logits is not None:
        raise WeightsError(
            f"{weights.path}: has {logits} logits, and --classes names {classes}; name {logits} classes", found.lines()
        )
    few = found.problems < _FEW * len(weights.tensors)
    other = None if few else other_architecture(weights, arch)
    if other is not None:
        raise WeightsError(f"{weights.path}: its weights are those of a {other}, not of a {arch}; pass --arch {other}")
    fix = "pass the --arch that it is of, or see docs/how-to/own-backbone.md"
    if few:
        fix = "save model.state_dict() again, whole, or pass another --arch"
        if found.of_another_size:
            fix = "pass the --image-size that it was trained with"
    raise WeightsError(
        f"{weights.path}: {found.problems} of its or the network's tensors do not fit {arch}; {fix}", found.lines()
    )


def run(options: Options) -> int:
    """Convert the weights, print what was done, and return the exit status."""
    try:
        with allocations_told():
            print("\n".join(map(visible, convert(options))))
    except torch.OutOfMemoryError as error:
        return print_ending(error, out_of_memory=MORE_MEMORY, interrupted="", device="cpu")
    except TrainingError as error:
        for line in getattr(error, "details", ()):
            say(line)
        say(f"error: {error}")
        return error.exit_status
    return 0
