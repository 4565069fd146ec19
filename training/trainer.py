"""The training loop: epochs, averaging, validation, checkpoints, resuming."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.checkpoint import (
    BlockConfig,
    CheckpointInfo,
    build_model,
    current_versions,
    git_commit,
    load_checkpoint,
    save_checkpoint,
)
from training.config import TrainConfig
from training.data import PictureSet, augment, batches, split_validation, to_float
from training.methods import build_method
from training.mixing import cutmix, cutout
from training.model import SelfGradientNetwork
from training.oracle import GradientOracle
from training.run_log import RunLog
from training.schedule import learning_rate
from training.validation import Validation, collapse
from training.views import check_view


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says why and what to do. What was saved stays."""


class WeightAverage:
    """Exponential moving average of a network's parameters and buffers.

    decay: share of the average kept at each step; the first steps use less, so that the average forgets the start
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.steps = 0
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)


@dataclass
class Progress:
    """Where a run stands after its last whole epoch.

    epoch:        epochs done
    best_lowest:  highest val_lowest so far: what model.safetensors was chosen by
    best_pgd:     highest val_pgd10 so far
    wall_seconds,
    core_seconds: spent, over all resumed parts; core seconds do not grow when other work shares the machine
    """

    epoch: int = 0
    best_lowest: float = -1.0
    best_pgd: float = 0.0
    wall_seconds: float = 0.0
    core_seconds: float = 0.0


class Trainer:
    """Trains one network into run_dir: model.safetensors (best epoch by val_lowest), state.pt (to resume), log.csv.

    pictures: the training split; part of it is held out for validation
    resume:   go on from state.pt
    """

    def __init__(self, config: TrainConfig, pictures: PictureSet, run_dir: Path, device: torch.device, resume: bool):
        self.config, self.run_dir, self.device = config, run_dir, device
        self.state_path = run_dir / "state.pt"
        if not resume and self.state_path.exists():
            raise TrainingError(f"{self.state_path} exists: add --resume to go on with that run, or give another --run")
        train, validation = split_validation(pictures, config.validation_pictures, config.seed)
        self.train = PictureSet(train.images.to(device), train.labels.to(device), train.class_names)
        self.validation = Validation(
            to_float(validation.images).to(device, memory_format=torch.channels_last),
            validation.labels.to(device),
            min(config.validation_attacked, len(validation)),
            config.epsilon,
            config.seed,
        )
        if len(self.train) < config.batch_size:
            raise TrainingError(
                f"{len(self.train)} training pictures do not fill a batch of {config.batch_size}; lower --batch-size"
            )
        torch.manual_seed(config.seed)
        mean, std = self.train.channel_statistics()
        block = BlockConfig(config.block_layers, config.block_scale, config.gradient_scaling)
        self.info = CheckpointInfo(
            architecture=config.arch,
            class_names=train.class_names,
            image_size=(train.images.shape[2], train.images.shape[3]),
            mean=mean,
            std=std,
            dataset=config.dataset_name or config.dataset,
            method=config.method,
            epsilon=config.epsilon if config.method != "standard" else 0.0,
            block=block if config.method == "self-gradient" else None,
            seed=config.seed,
            activation=config.activation,
            recipe=config.as_dict(),
            versions=current_versions(),
            git_commit=git_commit(),
        )
        self.model = build_model(self.info)
        if config.init_from and not resume:
            self._start_from(Path(config.init_from))
        check_view(config.attack_view, self.model)
        self.model.to(device).to(memory_format=torch.channels_last)
        self.optimizer = self._build_optimizer()
        self.average = WeightAverage(self.model, config.ema_decay) if config.ema_decay else None
        self.method = build_method(config)
        self.progress = Progress()
        if resume:
            self._load_state()

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train) // self.config.batch_size

    def _start_from(self, path: Path) -> None:
        other, info = load_checkpoint(path)
        mine = (self.config.arch, self.info.class_names)
        if (info.architecture, info.class_names) != mine:
            raise TrainingError(
                f"{path} is a {info.architecture} for {len(info.class_names)} classes, not a {mine[0]} for the same "
                f"{len(mine[1])}; pass a checkpoint of the same --arch and classes to --init-from"
            )
        if info.activation != self.config.activation or isinstance(other, GradientOracle):
            raise TrainingError(
                f"{path} is a {info.method} network with activation {info.activation}; pass a checkpoint of the same "
                "--activation, and no gradient-oracle, to --init-from"
            )
        self.model.backbone.load_state_dict(other.backbone.state_dict(), strict=True)

    def _build_optimizer(self) -> torch.optim.SGD:
        # Weight decay drives the block's output to nothing within a few epochs (measured: 8e-6), so it gets none.
        block = list(self.model.block.parameters()) if self.model.block is not None else []
        groups: list[dict[str, Any]] = [
            {"params": list(self.model.backbone.parameters()), "weight_decay": self.config.weight_decay},
            {"params": block, "weight_decay": 0.0},
        ]
        return torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=self.config.lr,
            momentum=self.config.momentum,
            nesterov=True,
        )

    def run(self) -> None:
        """Trains the epochs that are left.

        raises TrainingError where an epoch's figures show a collapse; the best checkpoint so far is kept
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        log = RunLog(self.run_dir, first_epoch=self.progress.epoch + 1)
        total = self.config.epochs * self.steps_per_epoch
        terminal = sys.stderr.isatty()
        bar = tqdm(
            total=total,
            initial=self.progress.epoch * self.steps_per_epoch,
            unit="batch",
            dynamic_ncols=terminal,
            # A log file wants a line a minute, a terminal a live bar.
            mininterval=0.5 if terminal else 60,
        )
        shown: dict[str, str] = {}
        try:
            while self.progress.epoch < self.config.epochs:
                problem = self._epoch(log, bar, shown)
                if problem:
                    raise TrainingError(
                        f"epoch {self.progress.epoch}: {problem}. Best checkpoint so far: {self.checkpoint_path}"
                    )
        finally:
            bar.close()
            log.close()

    @property
    def checkpoint_path(self) -> Path:
        return self.run_dir / "model.safetensors"

    def _epoch(self, log: RunLog, bar: "tqdm[Any]", shown: dict[str, str]) -> str | None:
        epoch, progress = self.progress.epoch, self.progress
        wall, core = time.perf_counter(), time.process_time()
        # Seeding by epoch makes a resumed run draw what the uninterrupted one would have drawn.
        torch.manual_seed(self.config.seed * 1_000_003 + epoch + 1)
        loss, accuracy = self._train_epoch(epoch, bar, shown)
        trained_wall = time.perf_counter() - wall
        evaluated = self._evaluated_model()
        figures = {
            "lr": learning_rate(self.config, epoch + 1 - 1 / self.steps_per_epoch),
            "train_loss": loss,
            "train_accuracy": accuracy,
            **self.validation.measure(evaluated),
            "train_images_per_second": self.steps_per_epoch * self.config.batch_size / trained_wall,
        }
        # A gradient oracle reads the label out of the gradient: that is what it is there to show.
        adversarial = self.config.method not in ("standard", "gradient-oracle")
        problem = collapse(figures, progress.best_pgd) if adversarial else None
        progress.epoch = epoch + 1
        progress.wall_seconds += time.perf_counter() - wall
        progress.core_seconds += time.process_time() - core
        figures |= {"wall_seconds": progress.wall_seconds, "core_seconds": progress.core_seconds}
        log.add(progress.epoch, figures)
        shown |= {"val clean": f"{figures['val_clean']:.3f}", "val PGD-10": f"{figures['val_pgd10']:.3f}"}
        selection = figures["val_clean"] if self.config.method == "standard" else figures["val_lowest"]
        if problem is None and selection >= progress.best_lowest:
            progress.best_lowest = selection
            self._save_best(evaluated, figures)
        progress.best_pgd = max(progress.best_pgd, figures["val_pgd10"])
        self._save_state()
        return problem

    def _train_epoch(self, epoch: int, bar: "tqdm[Any]", shown: dict[str, str]) -> tuple[float, float]:
        self.model.train()
        losses = torch.zeros((), device=self.device)
        right = torch.zeros((), device=self.device)
        steps = self.steps_per_epoch
        for index, (images, labels) in enumerate(batches(self.train, self.config.batch_size, shuffle=True)):
            rate = learning_rate(self.config, epoch + index / steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            augmented = augment(images, padding=self.config.crop_padding, flip=self.config.flip)
            cut, targets = self._cut(augmented, labels)
            inputs = to_float(cut).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                step = self.method.loss(self.model, self.method.attack(self.model, inputs, targets))
            self.optimizer.zero_grad(set_to_none=True)
            step.backward()
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model)
            losses += step.loss.detach()
            right += (step.logits.detach().argmax(dim=1) == labels).float().mean()
            bar.update(1)
            if index % 20 == 19 or index + 1 == steps:
                mean_loss = losses.item() / (index + 1)
                if not torch.isfinite(losses):
                    raise TrainingError(f"epoch {epoch + 1}: the loss is {mean_loss}; resume with a lower --lr")
                key = "accuracy" if self.config.method == "standard" else "attacked"
                bar.set_postfix(
                    {"epoch": epoch + 1, "loss": f"{mean_loss:.3f}", key: f"{right.item() / (index + 1):.3f}", **shown},
                    refresh=False,
                )
        return losses.item() / steps, right.item() / steps

    def _cut(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images and their targets after cutout and CutMix, where the configuration asks for them."""
        targets = labels
        if self.config.cutout:
            mean = torch.tensor(self.info.mean, device=images.device).view(1, -1, 1, 1)
            images = cutout(images, self.config.cutout, (255 * mean).round().to(images.dtype))
        if self.config.cutmix:
            images, targets = cutmix(images, labels, len(self.info.class_names), self.config.cutmix)
        return images, targets

    def _evaluated_model(self) -> SelfGradientNetwork:
        """The network that is validated and saved: the weight average where there is one."""
        if self.average is None:
            return self.model
        averaged = build_model(self.info).to(self.device).to(memory_format=torch.channels_last)
        averaged.load_state_dict(self.average.state)
        return averaged

    def _save_best(self, model: SelfGradientNetwork, figures: dict[str, float]) -> None:
        history = {"epoch": self.progress.epoch, **figures}
        values = {**self.info.__dict__, "history": history}
        save_checkpoint(self.checkpoint_path, model.state_dict(), CheckpointInfo(**values))

    def _save_state(self) -> None:
        state: dict[str, Any] = {
            "config": self.config.as_dict(),
            "progress": dict(self.progress.__dict__),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state |= {"average": self.average.state, "average_steps": self.average.steps}
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.state_path)

    def _load_state(self) -> None:
        state = read_state(self.state_path)
        saved = TrainConfig.from_dict(state["config"])
        if saved != self.config:
            mine = self.config.as_dict()
            differing = [f"{k} (was {v}, now {mine[k]})" for k, v in saved.as_dict().items() if mine[k] != v]
            raise TrainingError(f"{self.state_path} is of a run with other settings: {', '.join(differing)}")
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.state = {name: tensor.to(self.device) for name, tensor in state["average"].items()}
            self.average.steps = state["average_steps"]


def read_state(path: Path) -> dict[str, Any]:
    """The saved state of a run.

    raises TrainingError where there is none or it is unreadable
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such file, so there is nothing to resume; leave --resume away to start")
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, runtime and attribute errors for the many ways to be foreign
        raise TrainingError(
            f"{path}: not a saved training state ({str(error).splitlines()[0]}); start again under another --run"
        ) from None
    return state
