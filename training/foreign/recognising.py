"""Recognise the network that foreign weights are of: its architecture, its classes, its normalisation."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.foreign.errors import WeightsError
from training.foreign.guessing import ANY_CLASSES, guess_architecture, state_of
from training.foreign.matching import Match, match
from training.foreign.normalisation import in_words, is_possible, known_normalisation
from training.foreign.one_model import check_one_model
from training.foreign.reading import SAFETENSORS, ForeignWeights, read_weights
from training.foreign.spelling import Normalisation
from training.foreign.spellings import refuse_other_networks
from training.networks.errors import ArchitectureError

PROGRAM = "python -m training.convert"


@dataclass(frozen=True)
class Recognised:
    """Foreign weights whose network is known, and fits to the last tensor.

    Attributes:
        path: The file.
        arch: The architecture.
        classes: The number of logits.
        match: Its tensors by the network's own names.
        normalisation: Per-channel mean and standard deviation; None where nothing says them.
        lines: Steps and findings, one sentence each.
    """

    path: Path
    arch: str
    classes: int
    match: Match
    normalisation: Normalisation | None
    lines: tuple[str, ...]

    def require_normalisation(self, flag: str) -> Normalisation:
        """Return the normalisation.

        Args:
            flag: The option that named the file, for the message.

        Raises:
            WeightsError: Nothing says it. The message names the command that takes it.
        """
        if self.normalisation is not None:
            return self.normalisation
        command = convert_command(self.path, self.arch, ("--mean", "0,0,0", "--std", "1,1,1"))
        raise WeightsError(
            f"{flag} {self.path}: {self.arch} of {self.classes} classes, but nothing in it says what its program "
            f"normalises pictures with; where that is nothing, run `{command}`, else with its --mean and --std"
        )


def recognise(path: Path, flag: str, arch: str | None = None, image_size: tuple[int, int] | None = None) -> Recognised:
    """Read foreign weights and find their network, where names and shapes leave one alone.

    Args:
        path: The file.
        flag: The option that named it, for messages.
        arch: The architecture, where the user says it.
        image_size: (height, width) in pixels, where it is known; some networks of timm have weights for one size.

    Raises:
        WeightsError: The file cannot be read, or no network fits it to the last tensor. The message names the
            command line of training.convert, which lists what does not fit.
    """
    return recognise_weights(read_weights(path, flag), flag, arch, image_size)


def recognise_weights(
    weights: ForeignWeights, flag: str, arch: str | None = None, image_size: tuple[int, int] | None = None
) -> Recognised:
    """Find the network of foreign weights that were read; see recognise."""
    path = weights.path
    try:
        refuse_other_networks(weights.tensors)
        check_one_model(weights.tensors)
        found = guess_architecture(weights.tensors) if arch is None else arch
    except WeightsError as error:
        raise WeightsError(f"{flag} {path}: {_by_convert(str(error), path, None)}") from None
    lines = [] if arch is not None else [f"took it for {found}, by its names and shapes"]
    try:
        fit = match(weights.tensors, found, state_of(found, ANY_CLASSES, image_size))
        classes = fit.logits_in_file if fit.problems else ANY_CLASSES
        if classes is None:
            raise WeightsError(_does_not_fit(weights, fit, found, flag, guessed=arch is None))
        if fit.problems:
            fit = match(weights.tensors, found, state_of(found, classes, image_size))
    except ArchitectureError as error:
        raise WeightsError(f"{flag} {path}: {error}") from None
    fit.check_numbers(f"{flag} {path}")
    known = known_normalisation(weights, found, fit.spelling)
    if known is not None and not is_possible(known[0]):
        command = convert_command(path, found, ("--mean", "R,G,B", "--std", "R,G,B"))
        raise WeightsError(
            f"{flag} {path}: its mean and standard deviation are {in_words(known[0])}, and the latter must be above 0; "
            f"pass the right ones to `{command}`"
        )
    lines += [*weights.notes, *fit.notes, f"names: {fit.spelling.title}"]
    if known is not None:
        lines.append(f"normalisation: {in_words(known[0])} ({known[1]})")
    return Recognised(path, found, classes, fit, None if known is None else known[0], tuple(lines))


def _by_convert(reason: str, path: Path, arch: str | None) -> str:
    """Return a reason with the command line that takes what is missing, where the reason asks for an option."""
    if "pass the --arch" not in reason and "pass --arch" not in reason:
        return reason
    return f"{reason} to `{convert_command(path, arch or 'ARCH')}`"


def _does_not_fit(weights: ForeignWeights, fit: Match, arch: str, flag: str, *, guessed: bool) -> str:
    """Return why weights do not fit an architecture; where the user named it, with the one that fits if any does."""
    other = None if guessed else other_architecture(weights, arch)
    first = fit.lines()[0].strip()
    if other is not None:
        return f"{flag} {weights.path}: its weights are those of a {other}, not of a {arch}; pass --arch {other}"
    return (
        f"{flag} {weights.path}: {fit.problems} of its or the network's tensors do not fit {arch} ({first}); "
        f"`{convert_command(weights.path, arch)}` lists them"
    )


def other_architecture(weights: ForeignWeights, arch: str) -> str | None:
    """Return the architecture that names and shapes speak for; None if it is `arch`, or they speak for none."""
    try:
        found = guess_architecture(weights.tensors)
    except WeightsError:
        return None
    return None if found == arch else found


def convert_command(path: Path, arch: str, more: Sequence[str] = (), classes: str = "NAMES") -> str:
    """Return the command line that converts weights, for messages.

    Args:
        path: The weights.
        arch: The architecture.
        more: Further arguments.
        classes: Text in place of the names of the classes.
    """
    out = path.with_name(f"{path.stem}-converted{SAFETENSORS}")
    words = ["--arch", arch, "--weights", str(path), "--classes", classes, *more, "--out", str(out)]
    return f"{PROGRAM} {shlex.join(words)}"
