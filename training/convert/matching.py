"""Match foreign tensors with those of a network, and account for every one of both."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from training.convert.spellings import UNUSED, Spelling, spellings_of

COUNTER = "num_batches_tracked"
"""Batch norm's counter. Files of old programs lack it, and inference does not use it."""

_INDENT = "  "


@dataclass(frozen=True)
class Match:
    """The result of matching.

    Attributes:
        spelling: The spelling that fits best.
        tensors: Tensors by the network's own names, of the right shapes.
        missing: Names that the network has and the file lacks, as the network spells them.
        left_over: Names in the file that the network has no place for.
        other_shapes: By the name in the file: the shape there, and the network's.
        unused: Names in the file that its own program does not use either.
    """

    spelling: Spelling
    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    other_shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unused: tuple[str, ...]

    @property
    def problems(self) -> int:
        """The number of tensors that do not fit."""
        return len(self.missing) + len(self.left_over) + len(self.other_shapes)

    @property
    def logits_in_file(self) -> int | None:
        """The number of logits of the file's classifier, where that alone keeps the match from being complete."""
        if self.missing or self.left_over:
            return None
        found = {(there[0], here[0]) for there, here in self.other_shapes.values() if there[1:] == here[1:]}
        whole = all(there[1:] == here[1:] for there, here in self.other_shapes.values())
        return next(iter(found))[0] if whole and len(found) == 1 else None

    def lines(self) -> list[str]:
        """Return a line for each tensor that does not fit, with the nearest names."""
        lines = [f"{_INDENT}missing: {name}{_nearest(name, self.left_over)}" for name in self.missing]
        lines += [f"{_INDENT}left over: {name}{_nearest(name, self.missing)}" for name in self.left_over]
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
    for name, tensor in tensors.items():
        ours = spelling.renamed(name)
        if UNUSED.search(name) and ours not in wanted:
            unused.append(name)
        elif ours not in wanted or ours in seen:
            left_over.append(name)
        elif tensor.shape != wanted[ours].shape:
            other_shapes[name] = (tuple(tensor.shape), tuple(wanted[ours].shape))
        else:
            fitting[ours] = tensor
        seen.add(ours)
    missing: list[str] = []
    for name, tensor in wanted.items():
        if name in seen:
            continue
        if name.endswith(COUNTER):
            fitting[name] = tensor
        else:
            missing.append(name)
    return Match(spelling, fitting, tuple(missing), tuple(left_over), other_shapes, tuple(unused))


def _nearest(name: str, others: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(name, others, n=2, cutoff=0.5)
    return f" (nearest: {', '.join(nearest)})" if nearest else ""
