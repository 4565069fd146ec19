"""Train the plain network by one-step adversarial training, then the self-gradient network that continues it.

Each stage trains for the time that it has, with the learning-rate schedule laid over that time. After every epoch, the
network that the trainer keeps is written to the run's folder in half precision.
"""

import contextlib
import csv
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from release.gpu import flops, pictures
from release.gpu.stage import ARCHITECTURES, Run, Skip, main
from training.checkpoint import load_checkpoint, save_checkpoint
from training.common import run_files
from training.config import TrainConfig
from training.data.picture_set import PictureSet
from training.loop.state import TrainerError
from training.loop.trainer import Trainer
from training.networks.self_gradient import SelfGradientNetwork

SPARE_SECONDS = 6.0
"""Seconds kept for the end of the stage, and for a last validation that takes longer than the one before."""
REHEARSED_SECONDS = 3.0
"""Seconds of training in a rehearsal."""
VALIDATION_BATCH = 500
"""Validation's batch size on a GPU."""
REHEARSAL: dict[str, Any] = {
    "arch": ARCHITECTURES[True],
    "batch_size": 16,
    "crop_padding": 1,
    "precision": "float32",
    "validation_pictures": 20,
    "validation_attacked": 10,
}
"""Options of a rehearsal."""


@dataclass(frozen=True)
class Recipe:
    """The training of one of the two networks.

    Attributes:
        file: Name of its checkpoint in the run's folder, without the suffix. Its training log's name begins with it.
        settings: Fields of TrainConfig that differ from the defaults.
        start: The recipe whose network it continues.
        seconds: Seconds that it trains for at most.
    """

    file: str
    settings: dict[str, Any]
    start: "Recipe | None" = None
    seconds: float = float("inf")


# N-FGSM: over tens of epochs a one-step attack without its noise may end in catastrophic overfitting.
PLAIN = Recipe(
    "plain", {"method": "pgd", "attack": "n-fgsm", "lr": 0.3, "lr_warmup": 0.2, "batch_size": 256, "ema_decay": 0.999}
)
# The settings by which the bundled network continued its plain one.
SELF_GRADIENT = Recipe(
    "self-gradient",
    {
        "method": "self-gradient",
        "attack_step_size": 10 / 255,
        "attack_view": "smooth",
        "block_scale": 4 / 255,
        "plain_loss_share": 0.3,
        "lr": 0.03,
        "ema_decay": 0.995,
    },
    start=PLAIN,
)
# Two steps cannot end in catastrophic overfitting. Moved weights (AWP) and the average are what the literature gains
# most from, at this size and without more pictures.
RESNET_18 = Recipe(
    "resnet-18",
    {
        "method": "pgd",
        "arch": "resnet-18",
        "attack_steps": 2,
        "attack_step_size": 5 / 255,
        "weight_perturbation": 0.005,
        "label_smoothing": 0.1,
        "lr": 0.2,
        "lr_warmup": 0.1,
        "batch_size": 256,
        "ema_decay": 0.999,
        "validation_attacked": 250,
    },
    seconds=360.0,
)
RECIPES = {"train-plain": PLAIN, "train-self-gradient": SELF_GRADIENT, "train-resnet-18": RESNET_18}


def checkpoint(folder: Path, recipe: Recipe) -> Path:
    """Return the path of a recipe's network in half precision."""
    return folder / f"{recipe.file}.safetensors"


def train(run: Run) -> None:
    """Train the network that the stage is named after. Record every epoch, and keep the network in half precision.

    Raises:
        Skip: There is no GPU, no pictures, no network to continue or no time left.
        TrainingError: Training failed before its first epoch was done.
    """
    recipe = RECIPES[run.name]
    device = run.device()
    start = ""
    if recipe.start is not None:
        full, half = run.work / recipe.start.file / run_files.CHECKPOINT, checkpoint(run.out, recipe.start)
        found = [path for path in (full, half) if path.is_file()]
        if not found:
            raise Skip(f"there is no {half.name} to continue: see stage train-plain")
        start = str(found[0])
    chosen = pictures.load(run, "train")
    seconds = min(run.seconds_left() - SPARE_SECONDS, recipe.seconds)
    if run.rehearse:
        seconds = min(seconds, REHEARSED_SECONDS)
    if seconds <= 0:
        raise Skip("no time is left to train")
    config = TrainConfig(
        **{
            "dataset": "image-folder",
            "dataset_name": run.settings.dataset_name,
            "arch": run.settings.arch,
            "init_from": start,
            "lr_schedule": "cyclic",
            "minutes": seconds / 60,
            **recipe.settings,
            **(REHEARSAL if run.rehearse else {}),
        }
    )
    train_into(run, recipe, config, chosen, device)


def train_into(run: Run, recipe: Recipe, config: TrainConfig, chosen: PictureSet, device: torch.device) -> None:
    """Train. After each epoch, record its figures and replace the network in the run's folder.

    Args:
        run: The stage's view of the run.
        recipe: The recipe.
        config: The training configuration.
        chosen: The training pictures.
        device: Where to train.

    Raises:
        TrainingError: Training failed before its first epoch was done.
    """
    began = time.monotonic()
    trainer = Trainer(config, chosen, run.work / recipe.file, device)
    if device.type == "cuda":
        # The trainer's own choice saves memory, which a GPU has enough of. Its small batches would leave the GPU idle.
        trainer.validation = replace(trainer.validation, batch_size=VALIDATION_BATCH)
    counted = count_operations(config, trainer)
    problem = ""
    try:
        for epoch in trainer.train():
            if epoch > 0:
                record_epoch(run, recipe, trainer, counted)
    except TrainerError as error:  # after a collapse the best network so far is kept, and can be judged
        if trainer.progress.epoch == 0:
            raise
        problem = str(error)
        record_epoch(run, recipe, trainer, counted)
    run.record(problem=problem, config=config.as_dict(), seconds=round(time.monotonic() - began, 1))


def count_operations(config: TrainConfig, trainer: Trainer) -> float | None:
    """Return a training step's operations for one picture; None if PyTorch cannot count them.

    The state of PyTorch's random generator is restored.
    """
    state = torch.get_rng_state()
    try:
        return flops.of_training_step(config, trainer.info)
    except Exception as error:  # training does not need this figure
        print(f"operations not counted: {type(error).__name__}: {error}")
        return None
    finally:
        torch.set_rng_state(state)


def half_precision(model: SelfGradientNetwork) -> dict[str, Tensor]:
    """Return a network's state_dict with all floating-point tensors in half precision."""
    state = model.state_dict()
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def record_epoch(run: Run, recipe: Recipe, trainer: Trainer, counted: float | None) -> None:
    """Copy the kept network and the log to the run's folder, and record the last epoch's figures.

    Args:
        run: The stage's view of the run.
        recipe: The recipe.
        trainer: The trainer, with at least one epoch done.
        counted: Operations of a training step for one picture; None if they are not known.
    """
    model, info = load_checkpoint(trainer.checkpoint_path)
    target = checkpoint(run.out, recipe)
    save_checkpoint(target, half_precision(model), info)
    log = trainer.run_dir / run_files.LOG
    with contextlib.suppress(OSError):
        shutil.copyfile(log, run.out / f"{recipe.file}-training.csv")
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    last, kept = rows[-1], rows[info.history["epoch"] - 1]
    speed = float(last["train_images_per_second"])
    says = (
        f"{len(rows)} epoch{'s' * (len(rows) > 1)} at {speed:.0f} pictures/s; "
        f"epoch {info.history['epoch']} is kept: clean {100 * float(kept['val_clean']):.1f} %, "
        f"lowest under attack {100 * float(kept['val_lowest']):.1f} % (validation)"
    )
    figures: dict[str, Any] = {"epochs": len(rows), "kept": kept, "last": last, "checkpoint": target.name}
    if counted is not None:
        rate = speed * counted / 1e12
        peak = run.figures_of("peak").get("bf16_matmul_tflops")
        figures |= {
            "operations_per_picture": counted,
            "tflops": round(rate, 3),
            "share_of_bf16_peak": round(rate / peak, 4) if peak else None,
        }
    run.record(says, **figures)


if __name__ == "__main__":
    sys.exit(main(train))
