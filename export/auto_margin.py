"""Find the threshold of self_gradient="auto" on a network's validation pictures, as metadata of its graph."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from export.errors import ExportError
from sgn_serve.common.graph_format import AUTO_KEY, file_sha256
from training.checkpoint import CheckpointInfo
from training.data.automatic_split import Part
from training.data.batches import to_float
from training.data.datasets import IMAGE_FOLDER
from training.data.loading import load_pictures, split_indices
from training.data.picture_set import PictureSet
from training.evaluate.auto_margin import AutoMargin, find_auto_margin
from training.foreign.loading import Source, load_network


class AutoMarginError(ExportError):
    """A network or a data set that no threshold can be found for; the message names the fix."""


@dataclass(frozen=True)
class AutoRequest:
    """The request of --auto-agreement.

    Attributes:
        agreement: Share of the validation pictures that shall get the answer of the block on.
        data_root: Folder of the data set.
        dataset: Its reader; None for the one that the network was trained with.
    """

    agreement: float
    data_root: Path
    dataset: str | None = None


def auto_metadata(source: Path | Source, asked: AutoRequest) -> dict[str, str]:
    """Return the metadata of a graph that carries the threshold and what it does on the validation pictures.

    Several files of one command share one measurement, as long as the checkpoint stays the same.

    Args:
        source: A model.safetensors, or weights of another program; see training.foreign.loading.
        asked: The agreement, and where the pictures are.

    Raises:
        AutoMarginError: The network has no block.
        CheckpointError, WeightsError: The checkpoint cannot be read.
        DatasetError: The pictures cannot be read, or are others than the network's.
    """
    source = source if isinstance(source, Source) else Source(source)
    return dict(_measured(source, asked, file_sha256(source.path) if source.path.is_file() else ""))


@cache
def _measured(source: Source, asked: AutoRequest, sha256: str) -> dict[str, str]:
    """Return what auto_metadata does, for a checkpoint of this SHA-256."""
    network, info = load_network(source)
    if network.block is None:
        raise AutoMarginError(
            f"{source.path}: a network without a block, which has one pass anyway; leave out --auto-agreement"
        )
    pictures = validation_pictures(info, asked)
    found = find_auto_margin(network, to_float(pictures.images), asked.agreement)
    return {AUTO_KEY: json.dumps({**found.as_dict(), "asked_agreement": asked.agreement, "split": "validation"})}


def validation_pictures(info: CheckpointInfo, asked: AutoRequest) -> PictureSet:
    """Return the pictures that training held out: never test pictures, nor pictures that it learned from.

    Raises:
        AutoMarginError: They are not of the network's size.
        DatasetError: They cannot be read, or are of other classes.
    """
    dataset = asked.dataset or info.recipe.get("dataset", IMAGE_FOLDER)
    part = Part("train", info.split)
    sized = info.recipe.get("image_size", info.image_size[0] if dataset == IMAGE_FOLDER else None)
    pictures = load_pictures(dataset, asked.data_root, part, sized, info.class_names, info.resize)
    _, held_out = split_indices(pictures, info.recipe.get("validation_pictures"), info.seed)
    chosen = pictures.subset(held_out)
    found = (chosen.images.shape[2], chosen.images.shape[3])
    if found != info.image_size:
        raise AutoMarginError(
            f"{asked.data_root}: pictures of {found[1]}x{found[0]}, but the network is for "
            f"{info.image_size[1]}x{info.image_size[0]}; pass the --data-root that it was trained on"
        )
    return chosen


def told(metadata: dict[str, str]) -> str:
    """Return one line about a threshold that auto_metadata found."""
    found = json.loads(metadata[AUTO_KEY])
    margin = AutoMargin(*(found[name] for name in ("margin", "agreement", "second_pass", "pictures")))
    return (
        f"auto: second pass where the two likeliest classes are less than {margin.margin:g} apart; "
        f"on {margin.pictures} validation pictures that is {margin.second_pass:.1%}, and {margin.agreement:.2%} of the "
        "answers are as with the block on"
    )
