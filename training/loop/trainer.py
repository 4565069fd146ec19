"""Train a network: epochs, validation, checkpoints, resuming."""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sgn_serve.common.error_text import one_line
from training.attacks.views import check_view
from training.checkpoint import (
    BlockConfig,
    CheckpointInfo,
    build_model,
    not_finite,
    save_checkpoint,
)
from training.common import run_files
from training.common.devices import MIB, gib, peak_memory
from training.common.provenance import current_versions, git_commit
from training.config import BATCH_SIZE, TrainConfig
from training.data.batches import Placement, batches, to_float
from training.data.loading import split_indices
from training.data.picture_set import PictureSet
from training.loop import kept_checkpoint
from training.loop.augmentation import Augmentation
from training.loop.kept_checkpoint import KeptEpoch, choice_of, with_choice
from training.loop.log import EpochLog
from training.loop.perturbations import PerturbationStore
from training.loop.progress_bar import ProgressBar, passes_counted
from training.loop.run_lock import RunLock
from training.loop.schedule import epochs_after, learning_rate, lengthened_schedule
from training.loop.start import freeze, on_device, read_start, saved_normalisation, take_over
from training.loop.state import (
    Progress,
    TrainerError,
    describe_pictures,
    differing_pictures,
    save_state,
)
from training.loop.time_left import TimeLeft, Work
from training.loop.validation import Validation, attacked_pictures, collapse, validation_batch_size
from training.loop.weight_average import weight_average
from training.methods import StepContext, build_method
from training.networks.self_gradient import SelfGradientNetwork
from training.parallel.distributed import ALONE, Shard
from training.parallel.synchronised import synchronised_steps


@dataclass(frozen=True)
class Done:
    """A step that is done.

    Attributes:
        figures: (2), loss and accuracy.
        moved: (n, 3, H, W), the attack's perturbations, units of pixel intensity.
    """

    figures: Tensor
    moved: Tensor


class Trainer:
    """Train one network into run_dir: model.safetensors (of the kept epoch), state.pt (to resume), log.csv.

    Args:
        config: The configuration. read_start must accept it.
        pictures: The training split. Part of it is held out for validation.
        run_dir: Folder of the results.
        device: Where to train.
        state: The state that read_state returned, to continue from; None to start.
        shard: This process's part of the work. Only the first process writes files and shows progress.

    Attributes:
        progress: How far the run is.
        lengthened: One sentence on what more epochs than the state's do to the schedule, "" where there are no more.

    Raises:
        TrainerError: The pictures are too few or do not fit into memory, or the state does not fit them.
    """

    def __init__(
        self,
        config: TrainConfig,
        pictures: PictureSet,
        run_dir: Path,
        device: torch.device,
        state: dict[str, Any] | None = None,
        shard: Shard = ALONE,
    ):
        self.config, self.run_dir, self.device, self.shard = config, run_dir, device, shard
        train, held_out = split_indices(pictures, config.validation_pictures, config.seed)
        self.batch_size = config.batch_size or BATCH_SIZE
        if len(train) < self.batch_size:
            raise TrainerError(
                f"{len(train)} training pictures do not fill a batch of {self.batch_size}; lower --batch-size, such "
                f"as --batch-size {2 ** (max(len(train) // 2, 1).bit_length() - 1)}"
            )
        whole = pictures.whole
        # The pictures at their final size serve validation and the statistics alone where there is room for crops.
        drawn_from = pictures if whole is None else replace(pictures, images=whole.images, whole=None)
        self.pictures, self.train_indices = on_device(drawn_from, device), train.to(device)
        validation = pictures.subset(held_out)
        self.validation = Validation(
            to_float(validation.images).to(device, memory_format=torch.channels_last),
            validation.labels.to(device),
            attacked_pictures(config, len(train), len(validation)),
            config.epsilon,
            config.seed,
            shard,
            validation_batch_size(config, shard),
        )
        self._kept = KeptEpoch(config, self.validation.attacked)
        saved = None if state is None else saved_normalisation(state)
        start = read_start(config) if config.start and state is None else None
        self.normalisation = saved if start is None else start.normalisation
        torch.manual_seed(config.seed)
        mean, std = (self.pictures if whole is None else pictures).channel_statistics(train)
        mean, std = self.normalisation or (mean, std)
        self.augmentation = Augmentation(
            config, mean, len(pictures.class_names), None if whole is None else whole.aspects
        )
        block = BlockConfig(config.block_layers, config.block_scale, config.gradient_scaling)
        self.info = CheckpointInfo(
            architecture=config.arch,
            class_names=pictures.class_names,
            image_size=(pictures.images.shape[2], pictures.images.shape[3]),
            mean=mean,
            std=std,
            dataset=config.dataset_name or config.dataset,
            method=config.method,
            epsilon=config.epsilon if config.adversarial else 0.0,
            block=block if config.method == "self-gradient" else None,
            seed=config.seed,
            activation=config.activation,
            resize=config.resize,
            split=pictures.split,
            recipe=config.as_dict(),
            versions=current_versions(),
            git_commit=git_commit(),
        )
        self.model = build_model(self.info)
        self.start_line = ""
        self.new_head: Collection[str] = [] if state is None else state.get("new_head", [])
        if start is not None:
            taken = take_over(start, self.model.backbone, self.info, config)
            self.start_line, self.new_head = taken.line, sorted(taken.new_head)
        if config.freeze_backbone:
            freeze(self.model.backbone, self.new_head)
        check_view(config.attack_view, self.model)
        self.model.to(device).to(memory_format=torch.channels_last)
        self.optimizer = self._build_optimizer()
        self.average = weight_average(self.model, config.ema_decay) if config.ema_decay else None
        self.method = build_method(config)
        self.perturbations = self._build_perturbations() if config.attack_start == "prior" else None
        self.progress = Progress()
        self.lengthened = ""
        self._data = describe_pictures(pictures, self.info.mean)
        self._saved: Progress | None = None
        self._held: RunLock | None = None
        self._began = time.perf_counter()  # less the time of earlier parts of the run
        self._core_began, self._core_before = time.process_time(), 0.0
        if state is not None:
            self._resume(state)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; an incomplete last one is left out."""
        return len(self.train_indices) // self.batch_size

    @property
    def checkpoint_path(self) -> Path:
        """The network of the epoch that is kept."""
        return self.run_dir / run_files.CHECKPOINT

    @property
    def state_path(self) -> Path:
        """The state to resume from."""
        return self.run_dir / run_files.STATE

    def _build_optimizer(self) -> torch.optim.SGD:
        # Weight decay drives the block's output to zero within a few epochs (measured: 8e-6), so the block gets none.
        block = list(self.model.block.parameters()) if self.model.block is not None else []
        groups: list[dict[str, Any]] = [
            {
                "params": [parameter for parameter in self.model.backbone.parameters() if parameter.requires_grad],
                "weight_decay": self.config.weight_decay,
            },
            {"params": block, "weight_decay": 0.0},
        ]
        return torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=self.config.lr,
            momentum=self.config.momentum,
            nesterov=self.config.momentum > 0,  # torch refuses it without a momentum
        )

    def _build_perturbations(self) -> PerturbationStore:
        height, width = self.pictures.images.shape[2:]
        border = 2 * self.config.crop_padding
        return PerturbationStore(
            len(self.pictures),
            (height + border, width + border),
            self.config.epsilon,
            self.config.seed,
            self.pictures.images.device,
            self.shard,
        )

    def train(self, held: RunLock | None = None) -> Iterator[int]:
        """Train the epochs that are left, and yield how many are done and saved: at the start, then after each one.

        Args:
            held: The lock of run_dir, which is looked at before something is written. None where nobody else writes.

        Raises:
            TrainerError: An epoch's figures show a collapse, or the loss is not finite. The best checkpoint is kept.
            WriteError: A file cannot be written.
            RunLost: Another training has taken run_dir over.
        """
        self._held = held
        log: EpochLog | None = None
        self._began = time.perf_counter() - self.progress.wall_seconds
        self._core_began, self._core_before = time.process_time(), self.progress.core_seconds
        with self.shard.fail_together():
            if self.shard.first:
                self._check_held()
                log = EpochLog(self.run_dir, first_epoch=self.progress.epoch + 1)
                if self._saved is None:
                    # Saved before the first epoch, so that --resume always works, and so that a full or read-only disk
                    # is noticed before an hour is lost.
                    self._save_state()
        yield self.progress.epoch
        bar = ProgressBar(self._time_left(), self.shard.first)
        try:
            with passes_counted(self.model.backbone, bar.passed):
                while not self.finished:
                    problem = self._epoch(log, bar)
                    with self.shard.fail_together():
                        if problem:
                            kept = (
                                "Best checkpoint so far"
                                if self.progress.epoch > 1
                                else "There is no better checkpoint than"
                            )
                            raise TrainerError(
                                f"epoch {self.progress.epoch}: {problem}. {kept}: {self.checkpoint_path}"
                            )
                    yield self.progress.epoch
        finally:
            bar.close()
            if log is not None:
                log.close()

    @property
    def resumption(self) -> str:
        """The point at which --resume would continue, in words. "" before the first save."""
        if self._saved is None:
            return ""
        if self._saved.trained is not None:
            return f"with the validation of epoch {self._saved.epoch + 1}"
        return f"after epoch {self._saved.epoch}"

    def _time_left(self) -> TimeLeft:
        """Return the estimate of the rest of the run, with what earlier parts of it measured."""
        progress = self.progress
        pictures = self.steps_per_epoch * self.batch_size
        work = Work(self.config.epochs, pictures, self.validation.passes(self.model))
        budget = 60 * self.config.minutes
        if self._counts_core:
            # The budget is that of all processes together, and they do equal work.
            processes = self.shard.processes
            left = TimeLeft(
                work, progress.epoch, budget, progress.core_seconds, clock=lambda: processes * time.process_time()
            )
        else:
            left = TimeLeft(work, progress.epoch, budget, progress.wall_seconds)
        left.knows("validation", progress.validation_seconds)
        if progress.trained is not None:
            left.skip_training(pictures / progress.trained["train_images_per_second"])
        return left

    def _scheduled(self, done: float) -> float:
        """Return how far the learning-rate schedule is, in epochs, from 0 to config.epochs.

        Args:
            done: Epochs done so far, fractions included. A time budget counts seconds instead.
        """
        if not self.config.minutes:
            return done
        # All processes must come to the same answer.
        if self._counts_core:
            seconds = self._core_before + self.shard.total(time.process_time() - self._core_began)
        else:
            seconds = self.shard.largest(time.perf_counter() - self._began)
        return epochs_after(self.config, seconds, self.progress.validation_seconds)

    @property
    def _counts_core(self) -> bool:
        """Whether the time budget counts processor time."""
        return bool(self.config.minutes) and self.config.minutes_of == "core"

    @property
    def finished(self) -> bool:
        """Whether no epoch is left."""
        return self.progress.finished or (not self.config.minutes and self.progress.epoch >= self.config.epochs)

    def _epoch(self, log: EpochLog | None, bar: ProgressBar) -> str | None:
        """Train, validate, log and save one epoch, and return what is wrong with its figures, if anything.

        It is saved between training and validation too. An epoch that was interrupted after that is validated only.

        Args:
            log: None in processes that do not write.
            bar: Shows the progress.
        """
        bar.start_epoch()
        trained = self.progress.trained
        if trained is None:
            wall, core = time.perf_counter(), time.process_time()
            trained = self._train_epoch(self.progress.epoch, bar)
            self.progress = replace(self._with_time(wall, core), trained=trained)
            bar.stage("saving")
            with self.shard.fail_together():
                if self.shard.first:
                    self._save_state()
        return self._validate(trained, log, bar)

    def _with_time(self, wall: float, core: float) -> Progress:
        """Return the progress with the time added since these readings of time.perf_counter and time.process_time."""
        progress = self.progress
        return replace(
            progress,
            wall_seconds=progress.wall_seconds + time.perf_counter() - wall,
            core_seconds=progress.core_seconds + self.shard.total(time.process_time() - core),
        )

    def _validate(self, trained: Mapping[str, float], log: EpochLog | None, bar: ProgressBar) -> str | None:
        """Validate, log and save an epoch that is trained, and return what is wrong with its figures, if anything.

        Args:
            trained: Figures of its training.
            log: None in processes that do not write.
            bar: Shows the progress.
        """
        epoch = self.progress.epoch
        wall, core = time.perf_counter(), time.process_time()
        evaluated = self._evaluated_model()
        bar.begin_validation()
        if evaluated is self.model:
            measured = self.validation.measure(evaluated, bar.measure)
        else:
            with passes_counted(evaluated.backbone, bar.passed):
                measured = self.validation.measure(evaluated, bar.measure)
        seconds = self.shard.largest(time.perf_counter() - wall)
        if self._counts_core:
            seconds = self.shard.total(time.process_time() - core)
        speed = "train_images_per_second"
        figures = {name: value for name, value in trained.items() if name != speed} | measured | {speed: trained[speed]}
        # A gradient oracle reads the label out of the gradient by design, which looks like a collapse and is none.
        adversarial = self.config.adversarial and self.config.method != "gradient-oracle"
        judged = len(self.validation.labels), self.validation.attacked
        problem = collapse(figures, self.progress.best_pgd, *judged, self.config) if adversarial else None
        # The first epoch's network is kept even after a collapse: there is no other one that could be judged.
        keep = problem is None or epoch == 0
        choice, best = self._kept.choose(self.progress, figures) if keep else (choice_of(self.progress), False)
        progress = replace(
            with_choice(self._with_time(wall, core), choice),
            epoch=epoch + 1,
            best_pgd=max(self.progress.best_pgd, figures["val_pgd10"]),
            problem=problem or "",
            trained=None,
            validation_seconds=seconds,
        )
        progress = replace(progress, finished=self._scheduled(progress.epoch) >= self.config.epochs)
        figures |= {
            "wall_seconds": progress.wall_seconds,
            "core_seconds": progress.core_seconds,
            "peak_memory_mib": self.shard.largest(peak_memory(self.device)) / MIB,
        }
        bar.begin_saving()
        self.progress = progress
        with self.shard.fail_together():
            if log is not None:
                self._check_held()
                # The state is written last. Whatever a kill leaves undone, the validation is repeated from the state
                # before.
                log.add(progress.epoch, figures)
                if best:
                    lengthened = {"lengthened": progress.lengthened} if progress.lengthened else {}
                    self._save_best(evaluated, {"epoch": progress.epoch, **figures, **lengthened})
                self._save_state()
        bar.show(
            {"val clean": f"{figures['val_clean']:.3f}", "val PGD-10": f"{figures['val_pgd10']:.3f}"}, of_epoch=True
        )
        bar.epoch_done()
        return problem

    def _train_epoch(self, epoch: int, bar: ProgressBar) -> dict[str, float]:
        """Train one epoch and return its figures. The end of a time budget cuts it short."""
        # Seeding by epoch makes a resumed run draw what the uninterrupted one would have drawn.
        seed = self.config.seed * 1_000_003 + epoch + 1
        torch.manual_seed(seed)
        self.augmentation.start_epoch(seed)
        self.model.train()
        if self.config.freeze_backbone:
            self.model.backbone.eval()  # batch norm keeps its statistics, and normalises by them
        sums = torch.zeros(2, device=self.device)
        steps, batch_size, done = self.steps_per_epoch, self.batch_size, 0
        for index, (images, labels, chosen) in enumerate(batches(self.pictures, self.train_indices, batch_size)):
            scheduled = self._scheduled(epoch + index / steps)
            if index and scheduled >= self.config.epochs:
                break
            rate = learning_rate(self.config, scheduled)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            # Every process draws the whole batch's augmentation, so that it equals one process's. That costs little.
            augmented, targets = self.augmentation(images, labels, chosen)
            inputs = to_float(self.shard.rows(augmented)).contiguous(memory_format=torch.channels_last)
            context = StepContext(min(1.0, scheduled / self.config.epochs), index)
            if self.perturbations is not None:
                shown = self.perturbations.take(chosen, self._placement())
                prior = self.shard.rows(shown).contiguous(memory_format=torch.channels_last)
                context = replace(context, prior=prior)
            step = self._step(inputs, self.shard.rows(targets), self.shard.rows(labels), context)
            if self.perturbations is not None:
                self.perturbations.put(chosen, self._placement(), step.moved)
            sums += step.figures
            bar.update(batch_size)
            done = index + 1
            if index % 20 == 19 or index + 1 == steps:
                loss, accuracy = self._means(sums, index + 1, epoch)
                key = "attacked" if self.config.adversarial else "accuracy"
                bar.show(
                    {
                        "epoch": str(epoch + 1) if self.config.minutes else f"{epoch + 1}/{self.config.epochs}",
                        "loss": f"{loss:.3f}",
                        key: f"{accuracy:.3f}",
                        "memory": gib(peak_memory(self.device)),
                    }
                )
        loss, accuracy = self._means(sums, done, epoch)
        return {
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": loss,
            "train_accuracy": accuracy,
            "train_images_per_second": bar.images_per_second,
        }

    def _placement(self) -> Placement:
        """Return where the last batch's pixels came from."""
        if self.augmentation.placement is None:
            raise RuntimeError("no batch was augmented yet")
        return self.augmentation.placement

    def _step(self, inputs: Tensor, targets: Tensor, labels: Tensor, context: StepContext) -> Done:
        """Do one step on this process's part of a batch.

        Args:
            inputs: (n, 3, H, W) float32 in [0, 1].
            targets: See training.methods.Batch.
            labels: (n), for the accuracy.
            context: The state of training.
        """
        with synchronised_steps(self.shard):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                batch = self.method.attack(self.model, inputs, targets, context)
                step = self.method.loss(self.model, batch)
            self.optimizer.zero_grad(set_to_none=True)
            step.backward()
        self.shard.average_(parameter.grad for parameter in self.model.parameters())
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        accuracy = (step.logits.detach().argmax(dim=1) == labels).float().mean()
        return Done(torch.stack([step.loss.detach(), accuracy]), batch.attacked - batch.images)

    def _means(self, sums: Tensor, steps: int, epoch: int) -> tuple[float, float]:
        """Return the mean loss and accuracy over all steps and processes, from the sums of this process's steps."""
        means = sums / steps
        self.shard.average_([means])
        loss, accuracy = means.tolist()
        with self.shard.fail_together():
            if not torch.isfinite(means).all():
                raise TrainerError(
                    f"epoch {epoch + 1}: the loss is {loss}; start again under another --run with a lower --lr"
                )
        return loss, accuracy

    def _evaluated_model(self) -> SelfGradientNetwork:
        """Return the network that is validated and saved: the weight average where there is one."""
        if self.average is None:
            return self.model
        return cast(SelfGradientNetwork, self.average.module)

    def _save_best(self, model: SelfGradientNetwork, history: dict[str, Any]) -> None:
        save_checkpoint(self.checkpoint_path, model.state_dict(), replace(self.info, history=history))

    def _check_held(self) -> None:
        if self._held is not None:
            self._held.check()

    def _save_state(self) -> None:
        self._check_held()
        save_state(self.state_path, self.config, self.progress, self._state())
        self._saved = self.progress

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "data": self._data,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.info.split is not None:
            state["split"] = self.info.split.as_values()
        if self.normalisation is not None:
            state["normalisation"] = self.normalisation
        if self.new_head:
            state["new_head"] = list(self.new_head)
        if self.average is not None:
            # The count includes the network before the first step, which is not a step.
            state |= {
                "average": self.average.module.state_dict(),
                "average_steps": int(self.average.n_averaged) - 1,
            }
        if self.perturbations is not None:
            state["perturbations"] = self.perturbations.levels
        return state

    def _resume(self, state: dict[str, Any]) -> None:
        differing = differing_pictures(state, self._data)
        if differing:
            raise TrainerError(
                f"{self.state_path} belongs to a run on other pictures ({differing}); "
                "give the --data-root that it was started with, or start under another --run"
            )
        self.progress = self._saved = Progress(**state["progress"])
        if self.progress.problem:
            raise TrainerError(
                f"{self.state_path}: this run stopped for good after epoch {self.progress.epoch} "
                f"({self.progress.problem}); start again under another --run"
            )
        if name := not_finite(state["model"]):
            raise TrainerError(
                f"{self.state_path}: its weights are not finite ({name} holds NaN or infinity); "
                "start again under another --run, with a lower --lr"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.module.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:  # torch's, for missing parts
            raise TrainerError(
                f"{self.state_path}: its tensors do not fit this network ({one_line(error)}); restore it from a copy, "
                "or start again under another --run"
            ) from None
        if self.average is not None:
            self.average.n_averaged.fill_(state["average_steps"] + 1)
        if self.perturbations is not None:
            self.perturbations.levels.copy_(state["perturbations"])
        self.progress = kept_checkpoint.take_over(
            self.checkpoint_path, self.state_path, self.info, self._kept, self.progress
        )
        self._lengthen(state["config"]["epochs"])

    def _lengthen(self, before: int) -> None:
        """Take note that the run has more epochs than it had before."""
        if self.config.epochs == before:
            return
        done = self.progress.epoch + (self.progress.trained is not None)
        self.lengthened = lengthened_schedule(self.config, before, done)
        self.progress = replace(
            self.progress, finished=False, lengthened=(*self.progress.lengthened, (self.progress.epoch, before))
        )
