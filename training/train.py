"""Train a network to runs/<name>/model.safetensors, as the command line asks, in one process or several."""

from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import MAX_SIDE, METADATA_KEY
from sgn_serve.common.termination import terminable
from training.checkpoint import CheckpointError, CheckpointInfo
from training.common import run_files
from training.common.devices import default_device
from training.common.errors import TrainingError
from training.common.exits import ENDINGS, allocations_told, print_ending
from training.common.files import WriteError
from training.config import TrainConfig, check_side
from training.data.automatic_split import AutomaticSplit, Part
from training.data.datasets import IMAGE_FOLDER
from training.data.folder_notes import folder_notes
from training.data.loading import load_pictures
from training.data.picture_folder import part_folder, with_room_for_crops
from training.fitting import with_batch_size, with_image_size
from training.hardware import check_backbone
from training.loop.run_lock import run_lock
from training.loop.start import read_start
from training.loop.state import TrainerError, read_state, with_saved_defaults
from training.loop.trainer import Trainer
from training.options import TrainOptions, check_run, configure, recipe_line, run_folder
from training.parallel.distributed import (
    DistributedError,
    Shard,
    StoppedElsewhere,
    first_on_machine,
    local_device,
    process_group,
)


def prepare(options: TrainOptions, config: TrainConfig, device: torch.device, shard: Shard) -> Trainer:
    """Do everything before the first epoch, and refuse what can be refused before the pictures are read.

    Args:
        options: What the command line asks for.
        config: The configuration that it led to.
        device: Where to train.
        shard: This process's part of the work.

    Raises:
        TrainingError: The run exists or cannot be resumed, or a checkpoint, the pictures or the processes do not fit.
    """
    run_dir = run_folder(options.run, config)
    state, class_names, start = None, None, None
    split = AutomaticSplit(config.test_share, config.seed)
    if options.resume:
        # The default of --epochs is no wish for more of them.
        more_epochs = "epochs" in options.given
        state = read_state(run_dir / run_files.STATE, config, more_epochs=more_epochs)
        config = with_saved_defaults(config, TrainConfig.from_dict(state["config"]))
        class_names = tuple(state["data"]["class_names"])
        split = AutomaticSplit.from_values(state["split"]) if "split" in state else split
    else:
        check_run(run_dir, resume=False)
        if config.start:
            start = read_start(config)
            # The pictures that the other network was trained on are not for judging this one.
            split = start.split or split
            class_names = None if config.pretrained else start.class_names
    if config.batch_size is not None and config.batch_size % shard.processes:
        raise DistributedError(
            f"--batch-size {config.batch_size} does not divide by {shard.processes} processes; they share each batch: "
            f"pass {config.batch_size // shard.processes * shard.processes or shard.processes}"
        )
    root: Path = options.data_root
    if config.dataset == IMAGE_FOLDER and shard.first:
        for line in folder_notes(root):
            say(line)

    def image_size(sizes: list[tuple[int, int]]) -> int | None:
        nonlocal config
        if state is None:
            config, line = with_image_size(config, sizes, start.image_size[0] if start and start.image_size else None)
            if line and first_on_machine():
                say(line)
            check_backbone(config, device)
        return config.image_size

    chosen = image_size if config.image_size is None else config.image_size
    pictures = load_pictures(config.dataset, root, Part("train", split), chosen, class_names, config.resize)
    # Known before the pictures are read for all but folders of pictures that keep their own size.
    check_side(config, min(pictures.images.shape[2:]))
    if max(pictures.images.shape[2:]) > MAX_SIDE:
        raise TrainerError(f"pictures of more than {MAX_SIDE} pixels a side are too large; pass a smaller --image-size")
    if config.random_resized_crop:
        pictures = with_room_for_crops(pictures, part_folder(root, "train"))
    config, line = with_batch_size(config, pictures, shard.processes)
    if line and shard.first:
        say(line)
    return Trainer(config, pictures, run_dir, device, state, shard)


def train(options: TrainOptions, config: TrainConfig, device: torch.device, shard: Shard) -> int:
    """Train in this process and return its exit status. One of several processes prints what failed.

    Args:
        options: What the command line asks for.
        config: The configuration that it led to.
        device: Where to train.
        shard: This process's part of the work.
    """
    trainer: Trainer | None = None
    done_before = False
    try:
        with ExitStack() as held:
            held.enter_context(allocations_told())
            with shard.fail_together():
                run_dir = run_folder(options.run, config)
                lock = held.enter_context(run_lock(run_dir)) if shard.first else None
                trainer = prepare(options, config, device, shard)
            if shard.first:
                kept = kept_line(trainer.checkpoint_path) if options.resume else ""
                for line in (trainer.start_line, recipe_line(config, options.given), kept):
                    if line:
                        print(line, flush=True)
                print(describe(trainer), flush=True)
                if trainer.lengthened:
                    print(trainer.lengthened, flush=True)
            done_before = trainer.finished
            for _ in trainer.train(lock):
                pass
    except StoppedElsewhere:
        return TrainingError.exit_status
    except ENDINGS as error:
        resumable = ""
        if trainer is not None and trainer.resumption:
            resumable = f"the same command with --resume continues {trainer.resumption}"
        hint = resumable or "nothing is saved yet, so the same command starts again"
        if options.resume and not resumable:
            hint = "the run is as it was, so the same command continues it"
        return print_ending(
            error,
            out_of_memory="pass a smaller --batch-size",
            interrupted=hint if shard.first else "",
            device=device,
            after=f"; then {resumable}" if resumable and isinstance(error, WriteError) else "",
        )
    if shard.first and trainer is not None:
        path = trainer.checkpoint_path
        print(f"nothing was left to train; the network is {path}" if done_before else f"wrote {path}")
        if kept := kept_line(path, "kept"):
            print(f"{kept} (epochs trained: {trainer.progress.epoch})")
    return 0


def kept_line(checkpoint: Path, verb: str = "kept so far") -> str:
    """Return a line that says which epoch's network a run has kept, "" where it has none.

    Args:
        checkpoint: The run's checkpoint.
        verb: How the line begins.
    """
    try:
        with safe_open(checkpoint, framework="pt") as file:
            history = CheckpointInfo.from_json((file.metadata() or {}).get(METADATA_KEY, "")).history
    except (CheckpointError, SafetensorError, OSError):
        return ""
    figures = [f"{name} {history[name]:.4g}" for name in ("val_clean", "val_lowest") if name in history]
    epoch = f"epoch {history.get('epoch')}"
    return f"{verb}: {', '.join([epoch, *figures])}"


def describe(trainer: Trainer) -> str:
    """Return a line that says what is about to be trained."""
    config, shard = trainer.config, trainer.shard
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    device = str(trainer.device) if shard.processes == 1 else f"{shard.processes} x {trainer.device.type}"
    done = trainer.progress.epoch
    epochs = f"all {done} epochs are done" if trainer.finished else f"epochs {done + 1} to {config.epochs}"
    if trainer.progress.trained is not None:
        epochs += f", of which epoch {done + 1} is trained and not validated"
    if config.minutes and not trainer.finished:
        of_core, progress = config.minutes_of == "core", trainer.progress
        seconds = progress.core_seconds if of_core else progress.wall_seconds
        used = f", of which {seconds / 60:.1f} are used" if done else ""
        epochs = f"{config.minutes:g} minutes{' of a core' if of_core else ''}{used}"
    pictures = f"{len(trainer.train_indices)} pictures of {trainer.info.dataset}"
    return (
        f"{config.arch} ({parameters:,} parameters), {config.method}, {pictures}, "
        f"{len(trainer.validation.labels)} more for validation, {config.precision} on {device}, {epochs}"
    )


def run(options: TrainOptions) -> int:
    """Train as the command line asks, and return the exit status."""
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        device = local_device(options.device or default_device())
        config = configure(options, device)
    except TrainingError as error:
        # Every process gets the same error, so the first one of each machine prints it.
        if first_on_machine():
            say(f"error: {error}")
        return error.exit_status
    with terminable(), process_group(device) as shard:
        return train(options, config, device, shard)
