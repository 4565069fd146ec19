"""Check the checkpoint of a run that is resumed, which was saved shortly before or after the state."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint
from training.common.command_line import OptionError
from training.config import TrainConfig
from training.loop.epoch_choice import EpochChoice
from training.loop.state import Progress, TrainerError, differing_settings

_OF_A_RUN = ("architecture", "class_names", "image_size", "mean", "std", "method", "seed", "activation", "resize")
"""Attributes of CheckpointInfo that are the same for every epoch of a run."""


@dataclass(frozen=True)
class KeptEpoch:
    """Which epoch's network a run keeps.

    Attributes:
        config: The run's configuration.
        attacked: Pictures that val_lowest is measured on.
    """

    config: TrainConfig
    attacked: int

    @property
    def chosen_by(self) -> str:
        """The figure that chooses it. Training without an attack is not meant to withstand any."""
        return "val_lowest" if self.config.adversarial else "val_clean"

    def choose(self, progress: Progress, figures: Mapping[str, Any]) -> tuple[EpochChoice, bool]:
        """Return the choice after an epoch with these figures, and whether to keep it.

        Args:
            progress: The run before it.
            figures: Its row of the log.
        """
        return choice_of(progress).after(figures[self.chosen_by], figures["val_clean"], self.attacked)


def choice_of(progress: Progress) -> EpochChoice:
    """Return the choice so far."""
    return EpochChoice(progress.best_lowest, progress.kept_lowest, progress.kept_clean)


def with_choice(progress: Progress, choice: EpochChoice) -> Progress:
    """Return the progress with another choice."""
    return replace(progress, best_lowest=choice.highest, kept_lowest=choice.kept_lowest, kept_clean=choice.kept_clean)


def take_over(checkpoint: Path, state: Path, info: CheckpointInfo, kept: KeptEpoch, progress: Progress) -> Progress:
    """Return the progress of a state with the choice of a checkpoint that is newer.

    A run that is killed between saving the two leaves such a checkpoint.

    Args:
        checkpoint: The file with the network of the epoch that is kept.
        state: The file with the state, for messages.
        info: What the run would write into its checkpoint.
        kept: Chooses the epoch.
        progress: That of the state.

    Raises:
        TrainerError: The state counts on a checkpoint that is missing, damaged, or another run's.
    """
    if progress.epoch and not checkpoint.is_file():
        raise TrainerError(
            f"{checkpoint} is missing, which holds the epoch that was kept: {state} holds the last one; start again "
            "under another --run"
        )
    try:
        _, saved = load_checkpoint(checkpoint)
    except CheckpointError as error:
        if not progress.epoch:
            return progress
        reason = str(error).partition("; ")[0]
        raise TrainerError(
            f"{reason}; it holds the epoch that was kept: restore it from a copy, or start again under another --run"
        ) from None
    epoch = saved.history.get("epoch", 0)
    differing = [name for name in _OF_A_RUN if getattr(saved, name) != getattr(info, name)]
    differing += [] if differing else _differing_history(saved, kept, progress)
    if differing or epoch > progress.epoch + 1:
        what = ", ".join(name.replace("_", " ") for name in differing) or "a later epoch"
        raise TrainerError(
            f"{checkpoint} is not of the run in {state} ({what}); restore it from a copy, or start again under another "
            "--run"
        )
    if epoch <= progress.epoch:
        return progress
    return with_choice(progress, kept.choose(progress, saved.history)[0])


def _differing_history(saved: CheckpointInfo, kept: KeptEpoch, progress: Progress) -> list[str]:
    """Return what tells a checkpoint from that of the kept epoch; nothing for one that is newer than the state."""
    try:
        then = TrainConfig.from_dict({**saved.recipe, "epochs": kept.config.epochs})  # a run may be lengthened
    except OptionError:
        return ["its options"]
    if differing := differing_settings(then, kept.config):
        return [differing]
    if not progress.epoch or saved.history.get("epoch", 0) > progress.epoch:
        return []
    figures = (progress.kept_lowest, progress.kept_clean)
    found = (saved.history.get(kept.chosen_by), saved.history.get("val_clean"))
    return [] if found == figures else ["an epoch that is not the kept one"]
