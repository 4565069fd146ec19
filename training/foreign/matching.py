"""Match foreign tensors with those of a network, and account for every one of both."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.foreign.errors import WeightsError
from training.foreign.spelling import Spelling
from training.foreign.spellings import UNUSED, spellings_of

COUNTER = "num_batches_tracked"
"""Batch norm's counter. Files of old programs lack it, and inference does not use it."""

_POSITIONS = re.compile(r"pos_embed|relative_position|position_embedding")
"""Names of tensors whose shapes follow from the size of the pictures."""

_INDENT = "  "


@dataclass(frozen=True)
class Match:
    """The result of matching.

    Attributes:
        spelling: The spelling that fits best.
        tensors: Tensors by the network's own names, of the right shapes.
        missing: Names that the network has and the file lacks, as the network spells them. Each has the name that it
            would have in the file, where the file has other tensors of the same layer, and "" elsewhere.
        left_over: Names in the file that the network has no place for.
        other_shapes: The shape in the file, and the network's, by the name in the file.
        unused: Names in the file that its own program does not use either.
    """

    spelling: Spelling
    tensors: dict[str, Tensor]
    missing: dict[str, str]
    left_over: tuple[str, ...]
    other_shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unused: tuple[str, ...]

    @property
    def problems(self) -> int:
        """The number of tensors that do not fit."""
        return len(self.missing) + len(self.left_over) + len(self.other_shapes)

    def state_for(self, backbone: nn.Module) -> dict[str, Tensor]:
        """Return the tensors as a network takes them.

        Where batch norm has another epsilon in the file's own program, the running variances take the difference up,
        so that the logits are the same.

        Args:
            backbone: The network that was matched.
        """
        state, theirs = dict(self.tensors), self.spelling.batch_norm_epsilon
        if theirs is None:
            return state
        for name, module in backbone.named_modules():
            if isinstance(module, _BatchNorm):
                state[f"{name}.running_var"] = state[f"{name}.running_var"] + (theirs - module.eps)
        return state

    def check_numbers(self, file: str) -> None:
        """Refuse numbers that no training leaves behind.

        Args:
            file: The file, for the message.

        Raises:
            WeightsError: One is NaN or infinite.
        """
        if not all(bool(tensor.isfinite().all()) for tensor in self.tensors.values()):
            raise WeightsError(f"{file}: not all of its numbers are finite; take an earlier file of that training")

    def check_side(self, side: int) -> None:
        """Refuse pictures of a size for which the network would not compute what the file's own program does.

        Args:
            side: Side of the pictures in pixels.

        Raises:
            WeightsError: They are larger than that.
        """
        largest = self.spelling.largest_side
        if largest is not None and side > largest:
            raise WeightsError(
                f"{self.spelling.title} network of these names computes something else on pictures of more than "
                f"{largest} pixels a side; pass --image-size {largest}"
            )

    @property
    def notes(self) -> list[str]:
        """Changes made to the tensors, one sentence each."""
        notes = []
        if self.unused:
            notes.append(f"left out {len(self.unused)} tensors that no forward pass reads, such as {self.unused[0]}")
        if self.spelling.batch_norm_epsilon is not None:
            notes.append(
                f"its batch norm has an epsilon of {self.spelling.batch_norm_epsilon:g}: the difference is added to "
                "the running variances, which gives the same logits"
            )
        return notes

    @property
    def logits_in_file(self) -> int | None:
        """The number of logits of the file's classifier, where that alone keeps the match from being complete."""
        if self.missing or self.left_over:
            return None
        shapes = list(self.other_shapes.values())
        # A classifier is a layer with a weight of several axes. Batch norm has only weights of one axis.
        classifiers = {_layer(name) for name, (there, _) in self.other_shapes.items() if len(there) > 1}
        if any(_layer(name) not in classifiers for name in self.other_shapes):
            return None
        if not all(there and here and there[1:] == here[1:] for there, here in shapes):
            return None
        found = {(there[0], here[0]) for there, here in shapes}
        return next(iter(found))[0] if len(found) == 1 else None

    @property
    def of_another_size(self) -> bool:
        """Whether it would be complete for pictures of another size. The classifier does not count."""
        others = {name: shapes for name, shapes in self.other_shapes.items() if not _POSITIONS.search(name)}
        if self.missing or self.left_over or len(others) == len(self.other_shapes):
            return False
        return not others or replace(self, other_shapes=others).logits_in_file is not None

    def lines(self) -> list[str]:
        """Return a line for each tensor that does not fit, with the nearest names."""
        lines = []
        for name, theirs in self.missing.items():
            other = f" (in the file it would be {theirs})" if theirs not in ("", name) else ""
            lines.append(f"{_INDENT}missing: {name}{other or _nearest(name, self.left_over)}")
        lines += [f"{_INDENT}left over: {name}{_nearest(name, tuple(self.missing))}" for name in self.left_over]
        lines += [
            f"{_INDENT}other shape: {name} is {there} in the file, and {here} in the network"
            for name, (there, here) in self.other_shapes.items()
        ]
        return lines


def match(tensors: Mapping[str, Tensor], arch: str, wanted: Mapping[str, Tensor]) -> Match:
    """Match a file's tensors with a network's, in the spelling that leaves the fewest unmatched.

    Args:
        tensors: The file's tensors by name.
        arch: The architecture, which tells the spellings to try.
        wanted: The network's state dict.
    """
    return min((_match(tensors, spelling, wanted) for spelling in spellings_of(arch)), key=lambda one: one.problems)


def _match(tensors: Mapping[str, Tensor], spelling: Spelling, wanted: Mapping[str, Tensor]) -> Match:
    fitting: dict[str, Tensor] = {}
    left_over: list[str] = []
    other_shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    unused: list[str] = []
    seen: set[str] = set()
    layers: dict[str, str] = {}
    for name, tensor in tensors.items():
        ours = spelling.renamed(name)
        if UNUSED.search(name) and ours not in wanted:
            unused.append(name)
        elif ours not in wanted or ours in seen:
            left_over.append(name)
        elif tensor.shape == wanted[ours].shape:
            fitting[ours] = tensor
        elif (
            spelling.reshapes and tensor.numel() == wanted[ours].numel() and tensor.shape[:1] == wanted[ours].shape[:1]
        ):
            fitting[ours] = tensor.reshape(wanted[ours].shape)
        else:
            other_shapes[name] = (tuple(tensor.shape), tuple(wanted[ours].shape))
        seen.add(ours)
        layers.setdefault(_layer(ours), _layer(name))
    missing: dict[str, str] = {}
    for name, tensor in wanted.items():
        if name in seen:
            continue
        if name.endswith(COUNTER):
            fitting[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)  # the network's may have no values yet
        else:
            layer = layers.get(_layer(name)) if _layer(name) else None  # what belongs to no layer tells no other's name
            missing[name] = "" if layer is None else layer + name.removeprefix(_layer(name))
    return Match(spelling, fitting, missing, tuple(left_over), other_shapes, tuple(unused))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _nearest(name: str, others: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(name, others, n=2, cutoff=0.5)
    return f" (nearest: {', '.join(nearest)})" if nearest else ""
