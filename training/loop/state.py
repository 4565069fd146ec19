"""state.pt: all that an interrupted run needs to go on to the same result."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.common.files import write_atomically
from training.config import TrainConfig
from training.data.picture_set import PictureSet


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says why and what to do. What was saved stays."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after its last whole epoch.

    epoch:        epochs done
    best_lowest:  highest val_lowest so far (for standard training val_clean), as training.loop.epoch_choice needs it
    kept_lowest:  val_lowest of the epoch that model.safetensors holds
    kept_clean:   its val_clean
    best_pgd:     highest val_pgd10 so far
    problem:      why training stopped for good before its last epoch, or ""
    wall_seconds,
    core_seconds: spent, over all resumed parts; core seconds do not grow when other work shares the machine
    """

    epoch: int = 0
    best_lowest: float = -1.0
    best_pgd: float = 0.0
    wall_seconds: float = 0.0
    core_seconds: float = 0.0
    problem: str = ""
    kept_lowest: float = -1.0
    kept_clean: float = -1.0


def save_state(path: Path, config: TrainConfig, progress: Progress, tensors: dict[str, Any]) -> None:
    """tensors: state dictionaries and whatever else torch.load(weights_only=True) reads; raises WriteError"""
    buffer = io.BytesIO()
    torch.save({"config": config.as_dict(), "progress": asdict(progress), **tensors}, buffer)
    write_atomically(path, buffer.getbuffer())


def load_state(path: Path, fix: str, *, mmap: bool = False) -> tuple[dict[str, Any], TrainConfig]:
    """A saved state, on the CPU, and the configuration of the run that it is of.

    fix:  what to do about a file that is no state, for the message
    mmap: leave tensors in the file until they are used
    raises TrainingError where it is unreadable
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        saved = TrainConfig.from_dict(state["config"])
        Progress(**state["progress"])
        missing = {"model", "optimizer"} - state.keys()
    except Exception as error:  # torch raises pickle, runtime and attribute errors for the many ways to be foreign
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainingError(f"{path}: not a saved training state ({reason}); {fix}") from None
    if missing:
        raise TrainingError(f"{path}: a training state without its {' and '.join(missing)}; {fix}")
    return state, saved


def read_state(path: Path, config: TrainConfig) -> dict[str, Any]:
    """The saved state of the run with this configuration, on the CPU.

    raises TrainingError where there is none, it is unreadable, or it is of a run with other settings
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such file, so there is nothing to resume; leave --resume away to start")
    state, saved = load_state(path, "start again under another --run")
    if saved != config:
        raise TrainingError(
            f"{path} is of a run with other settings: {differing_settings(saved, config)}; "
            "give the same ones as then, or start under another --run"
        )
    return state


def differing_settings(saved: TrainConfig, now: TrainConfig) -> str:
    """The fields of a run's configuration that are others now, as text; "" where none is."""
    given = now.as_dict()
    return ", ".join(f"{k} (was {v}, now {given[k]})" for k, v in saved.as_dict().items() if given[k] != v)


def description(pictures: PictureSet, mean: Sequence[float]) -> dict[str, Any]:
    """What must not change about the pictures from one part of a run to the next, as its state holds it.

    mean: of the pictures trained on, by PictureSet.channel_statistics
    """
    return {"class_names": list(pictures.class_names), "pictures": len(pictures), "mean": list(mean)}


def differing_pictures(state: dict[str, Any], now: dict[str, Any]) -> str:
    """How the pictures that a run was trained on differ from those that `now` describes, as text; "" if they do not."""
    # States that an older version saved do not say what they were trained on.
    saved = state.get("data", now)
    if saved == now:
        return ""
    counts = [f"{data['pictures']} of {len(data['class_names'])}" for data in (saved, now)]
    if counts[0] == counts[1]:
        return f"{counts[0]} classes then and now, but not the same ones"
    return f"{counts[0]} classes, now {counts[1]}"
