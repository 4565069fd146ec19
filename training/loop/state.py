"""Save and load state.pt: all that an interrupted run needs to continue to the same result."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sgn_serve.common.error_text import one_line
from training.common.errors import TrainingError
from training.common.files import damaged_part, write_atomically
from training.config import TrainConfig
from training.data.picture_set import PictureSet

_FROM_PICTURES = ("image_size", "validation_pictures", "validation_attacked", "batch_size")
"""Options whose defaults follow from the pictures."""


class TrainerError(TrainingError):
    """Training cannot start or continue. The message says why and what to do. Files that were saved stay."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run after its last complete epoch, or after the training of the next one.

    Attributes:
        epoch: Epochs that are trained and validated.
        best_lowest: Highest val_lowest so far (for standard training val_clean), as training.loop.epoch_choice needs
            it.
        best_pgd: Highest val_pgd10 so far.
        wall_seconds: Wall-clock time spent, over all resumed parts.
        core_seconds: CPU time spent, likewise. It does not grow when other work shares the machine.
        problem: Why training stopped for good before its last epoch, or "".
        kept_lowest: val_lowest of the epoch that model.safetensors holds.
        kept_clean: Its val_clean.
        finished: Whether the schedule is over. With a time budget, the epochs do not tell.
        trained: Figures of the epoch that is trained but not validated; None after a complete epoch.
        validation_seconds: Wall-clock time of the last validation, 0 before the first.
        lengthened: Whenever --epochs was raised, the epochs done by then and the number that it had before.
    """

    epoch: int = 0
    best_lowest: float = -1.0
    best_pgd: float = 0.0
    wall_seconds: float = 0.0
    core_seconds: float = 0.0
    problem: str = ""
    kept_lowest: float = -1.0
    kept_clean: float = -1.0
    finished: bool = False
    trained: Mapping[str, float] | None = None
    validation_seconds: float = 0.0
    lengthened: tuple[tuple[int, int], ...] = ()


def save_state(path: Path, config: TrainConfig, progress: Progress, tensors: dict[str, Any]) -> None:
    """Write the state of a run.

    Args:
        path: The file.
        config: The run's configuration.
        progress: How far it got.
        tensors: State dictionaries and whatever else torch.load(weights_only=True) reads.

    Raises:
        WriteError: The file cannot be written. The old one is left as it was.
    """
    buffer = io.BytesIO()
    torch.save({"config": config.as_dict(), "progress": asdict(progress), **tensors}, buffer)
    write_atomically(path, buffer.getbuffer())


_DATA = {"class_names", "pictures", "mean", "sha256"}
"""Names of what describe_pictures returns."""


def load_state(path: Path, fix: str, *, mmap: bool = False) -> tuple[dict[str, Any], TrainConfig]:
    """Return a saved state, on the CPU, and the configuration of its run.

    Args:
        path: The file.
        fix: The fix for a file that is no state, for the message.
        mmap: Leave tensors in the file until they are used. Their checksums are not looked at then.

    Raises:
        TrainerError: The file is unreadable or damaged, or no state of this version.
    """
    if not mmap and (part := damaged_part(path)):
        raise TrainerError(f"{path}: damaged: its {part} is not that of its checksum; restore it from a copy, or {fix}")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        saved = TrainConfig.from_dict(state["config"])
        Progress(**state["progress"])
        wanted = {"data", "model", "optimizer"} | ({"average", "average_steps"} if saved.ema_decay else set())
        wanted |= {"perturbations"} if saved.attack_start == "prior" else set()
        missing = (wanted - state.keys()) | (_DATA - state.get("data", dict.fromkeys(_DATA)).keys())
    except Exception as error:  # torch raises pickle, runtime and attribute errors for the many ways to be foreign
        # The second sentence of PyTorch's refusal tells how to load any file, which runs whatever it says.
        reason = one_line(error).partition(". ")[0]
        raise TrainerError(f"{path}: not a saved training state ({reason}); {fix}") from None
    if missing:
        raise TrainerError(f"{path}: a training state without its {' and '.join(sorted(missing))}; {fix}")
    return state, saved


def read_state(path: Path, config: TrainConfig, *, more_epochs: bool = False) -> dict[str, Any]:
    """Return the saved state of the run with this configuration, on the CPU.

    Args:
        path: The file.
        config: The configuration.
        more_epochs: Whether the configuration may have more epochs than the run, which is lengthened then.

    Raises:
        TrainerError: There is none, it is unreadable, or it belongs to a run with other settings.
    """
    if not path.is_file():
        raise TrainerError(f"{path}: no such file, so there is nothing to resume; leave --resume away to start")
    state, saved = load_state(path, "start again under another --run")
    config = with_saved_defaults(config, saved)
    # A time budget ends with its minutes, so more epochs would only change the learning rate.
    lengthened = more_epochs and config.epochs > saved.epochs and not saved.minutes
    differing = differing_settings(replace(saved, epochs=config.epochs) if lengthened else saved, config)
    if differing:
        longer = "" if saved.minutes else f" (--epochs may be more than {saved.epochs})"
        raise TrainerError(
            f"{path} belongs to a run with other settings: {differing}; "
            f"give the same ones as then{longer}, or start under another --run"
        )
    return state


def with_saved_defaults(config: TrainConfig, saved: TrainConfig) -> TrainConfig:
    """Return a configuration with what its run chose for the options that follow from the pictures.

    Args:
        config: The configuration; None stands for such an option that was not given.
        saved: The configuration of the run.
    """
    chosen = {name: getattr(saved, name) for name in _FROM_PICTURES if getattr(config, name) is None}
    return replace(config, **chosen)


def differing_settings(saved: TrainConfig, now: TrainConfig) -> str:
    """Return the options of a run's configuration that differ now, as text; "" where none does."""
    given = asdict(now)
    return ", ".join(f"{k} (was {v}, now {given[k]})" for k, v in asdict(saved).items() if given[k] != v)


def describe_pictures(pictures: PictureSet, mean: Sequence[float]) -> dict[str, Any]:
    """Return what must not change about the pictures when a run is resumed, as its state holds it.

    Args:
        pictures: All pictures.
        mean: Mean of the pictures that the network trains on, by PictureSet.channel_statistics.
    """
    return {
        "class_names": list(pictures.class_names),
        "pictures": len(pictures),
        "mean": list(mean),
        # The digest covers the pixels in their order: the draws of an epoch go by the pictures' places.
        "sha256": pictures.sha256(),
    }


def differing_pictures(state: dict[str, Any], now: dict[str, Any]) -> str:
    """Return how the pictures of a saved run differ from those that `now` describes, as text; "" if they do not."""
    saved = state["data"]
    if all(saved[name] == value for name, value in now.items()):
        return ""
    counts = [f"{data['pictures']} of {len(data['class_names'])}" for data in (saved, now)]
    if counts[0] == counts[1]:
        return f"{counts[0]} classes then and now, but other ones, or in another order because files were renamed"
    return f"{counts[0]} classes, now {counts[1]}"
