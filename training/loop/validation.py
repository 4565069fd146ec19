"""Measure a network after each epoch, and notice training that has gone wrong."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from training.attacks import gradient_attack
from training.attacks.gradient_attack import Attack
from training.common.described_options import described_options
from training.common.in_batches import in_batches
from training.config import ATTACKED_AT_LEAST, ATTACKED_AT_MOST, ATTACKED_SHARE, BATCH_SIZE, TrainConfig
from training.evaluate import measuring
from training.evaluate.diagnostics.block_effect import BlockEffect, measure_block_effect
from training.evaluate.gradient_oracle import oracle_withstood
from training.evaluate.measuring import Target, Trial
from training.networks.gradient_oracle import GradientOracle
from training.networks.self_gradient import SelfGradientNetwork
from training.parallel.distributed import ALONE, Shard

Measurement = tuple[int, Callable[[], Tensor]]
"""The number of values, and the function that measures them."""

_STEPS = 10
"""Steps of the attacks that have several."""
_ORACLE = "clean, pgd10"
"""The measurement of a gradient oracle."""


def _ignore(name: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Validation:
    """Held-out pictures on the training device.

    Attributes:
        images: (N, 3, H, W) float32 in [0, 1].
        labels: (N).
        attacked: How many of them, from the first, are attacked.
        eps: L-inf budget, units of pixel intensity.
        seed: Seed of the attacks' random starts.
        shard: This process's share of the measurements, where there are several. All know the figures.
        batch_size: Pictures that the network sees at once.
    """

    images: Tensor
    labels: Tensor
    attacked: int
    eps: float
    seed: int
    shard: Shard = ALONE
    batch_size: int = 250

    def measure(self, model: SelfGradientNetwork, tell: Callable[[str], None] = _ignore) -> dict[str, float]:
        """Return accuracies in [0, 1] by log column; `val_lowest` counts pictures that withstood every attack.

        A network with a block also meets the smooth surrogate, which sees the block, and the attack on the block-off
        network. The block's effect is measured too. The model is left in eval mode.

        Args:
            model: The network.
            tell: Gets the name of each measurement before this process makes it.
        """
        model.eval()
        if isinstance(model, GradientOracle):
            tell(_ORACLE)
            return self._measure_oracle(model)
        has_block = model.block is not None
        everything, attacked = len(self.labels), self.attacked
        attacks = self._attacks(has_block)

        def withstood(attack: Attack, count: int) -> Measurement:
            return count, lambda: self._withstood(model, attack, count)

        measurements = {"clean": withstood(gradient_attack.clean_attack(), everything)}
        measurements |= {column: withstood(attack, attacked) for column, attack in attacks}
        if has_block:
            measurements["effect"] = (len(fields(BlockEffect)), lambda: self._block_effect(model))
            measurements["clean_block_off"] = withstood(gradient_attack.clean_attack(block=False), everything)
        measured = self._divided(measurements, tell)
        effect = measured.pop("effect", None)
        figures = {f"val_{column}": right.float().mean().item() for column, right in measured.items()}
        lowest = measuring.lowest(measured[column][:attacked] > 0 for column in ("clean", *dict(attacks)))
        figures["val_lowest"] = lowest.float().mean().item()
        if effect is not None:
            figures |= {f"block_{name}": value for name, value in BlockEffect(*effect.tolist()).as_dict().items()}
        return figures

    def passes(self, model: SelfGradientNetwork) -> dict[str, float]:
        """Return how many pictures go through the backbone in each of this process's measurements, by name.

        It counts pictures that withstand every attack. Others need fewer passes.
        """
        clean, attacked = len(self.labels), min(self.attacked, len(self.labels))
        if isinstance(model, GradientOracle):
            # Each answer takes a pass for the gradient that the network is told.
            return {_ORACLE: 2.0 * (clean + (_STEPS + 1) * attacked)}
        passes: dict[str, float] = {}
        each = 1 if model.block is None else 2
        passes["clean"] = each * clean
        passes["fgsm"] = 2 * each * attacked
        # Each step, its last result and the verdict on it.
        passes["pgd10"] = passes["cw10"] = (_STEPS + 2) * each * attacked
        if model.block is not None:
            # The surrogate is a pass more than the network; the network with its block off is one.
            passes["smooth_cw10"] = ((_STEPS + 1) * (each + 1) + each) * attacked
            passes["block_off_cw10"] = (_STEPS + 1 + each) * attacked
            passes["effect"] = ((_STEPS + 1) * each + 5) * attacked
            passes["clean_block_off"] = clean
        return {name: count for turn, (name, count) in enumerate(passes.items()) if self._mine(turn)}

    def _mine(self, turn: int) -> bool:
        """Return whether this process makes the measurement of this number."""
        return turn % self.shard.processes == self.shard.rank

    def _divided(self, measurements: dict[str, Measurement], tell: Callable[[str], None]) -> dict[str, Tensor]:
        """Make each measurement in one process, and return all of them in every process.

        Every measurement seeds its own draws, so it does not matter which process makes it.
        """
        made = []
        for turn, (name, (length, measure)) in enumerate(measurements.items()):
            if self._mine(turn):
                tell(name)
                made.append(measure().double().cpu())
            else:
                made.append(torch.zeros(length, dtype=torch.double))
        if self.shard.processes > 1:
            tell("waiting for the other processes")
        known = self.shard.sum_(torch.cat(made)).split([length for length, _ in measurements.values()])
        return dict(zip(measurements, known, strict=True))

    def _withstood(self, model: SelfGradientNetwork, attack: Attack, count: int) -> Tensor:
        """Return which of the first `count` pictures withstand an attack."""
        return measuring.withstood(self._trial(model).first(count), attack)

    def _trial(self, model: Target) -> Trial[Target]:
        return Trial(model, self.images, self.labels, self.eps, self.seed, self.batch_size)

    def _block_effect(self, model: SelfGradientNetwork) -> Tensor:
        """Return BlockEffect's fields in their order."""
        images, labels = self.images[: self.attacked], self.labels[: self.attacked]
        torch.manual_seed(self.seed)
        attack = gradient_attack.pgd_attack(_STEPS)
        attacked = in_batches(
            lambda some, right: attack.perturb(model, some, right, self.eps),
            images,
            labels,
            batch_size=self.batch_size,
        )
        effect = measure_block_effect(model, images, attacked, eps=self.eps, seed=self.seed, batch_size=self.batch_size)
        return torch.tensor(astuple(effect), dtype=torch.double)

    def _measure_oracle(self, model: GradientOracle) -> dict[str, float]:
        """Return the two figures of the paper's table 1, with the labels told to the network."""
        clean = oracle_withstood(self._trial(model), steps=0)
        pgd10 = oracle_withstood(self._trial(model).first(self.attacked), steps=_STEPS)
        lowest = measuring.lowest([clean[: self.attacked], pgd10])
        shares = {"val_clean": clean, "val_pgd10": pgd10, "val_lowest": lowest}
        return {name: right.float().mean().item() for name, right in shares.items()}

    def _attacks(self, has_block: bool) -> list[tuple[str, Attack]]:
        attacks = [
            ("fgsm", gradient_attack.fgsm_attack(self.eps)),
            ("pgd10", gradient_attack.pgd_attack(_STEPS)),
            ("cw10", gradient_attack.cw_attack(_STEPS)),
        ]
        if has_block:
            attacks.append(("smooth_cw10", gradient_attack.smooth_cw_attack(_STEPS, beta=20)))
            attacks.append(("block_off_cw10", gradient_attack.block_off_transfer_attack(_STEPS)))
        return attacks


def attacked_pictures(config: TrainConfig, trained: int, held_out: int) -> int:
    """Return how many pictures are attacked after each epoch.

    One costs about as much as twenty that are trained on, so the default follows their number.

    Args:
        config: The configuration.
        trained: Number of pictures that are trained on.
        held_out: Number of validation pictures.
    """
    chosen = config.validation_attacked
    if chosen is None:
        chosen = min(max(round(ATTACKED_SHARE * trained), ATTACKED_AT_LEAST), ATTACKED_AT_MOST)
    return min(chosen, held_out)


def validation_batch_size(config: TrainConfig, shard: Shard) -> int:
    """Return how many pictures fit at once into the memory that this process trains in, at most 250."""
    batch_size = (config.batch_size or BATCH_SIZE) // shard.processes
    if config.precision == "bf16":
        # Validation computes in float32, whose activations are twice as large.
        batch_size //= 2
    if config.method == "self-gradient":
        # The smooth surrogate's second derivatives need more memory (measured: 1.2 times) than those of
        # training.derivatives.double_backward.
        batch_size //= 2
    return max(1, min(250, batch_size))


def collapse(
    figures: dict[str, float], best_pgd: float, pictures: int, attacked: int, config: TrainConfig
) -> str | None:
    """Return one sentence where an epoch's figures show a known failure of adversarial training, else None.

    A difference counts only where it is beyond three standard errors: a few pictures say nothing.

    Catastrophic overfitting: the network withstands the one-step attack it trains on and nothing else.
    Label leaking: attacked pictures are easier than clean ones, because the network reads the label out of the
    perturbation.

    Args:
        figures: Validation.measure's.
        best_pgd: Highest val_pgd10 of the epochs before.
        pictures: Number of validation pictures.
        attacked: Number of those that are attacked.
        config: The configuration, for which the sentence names what may help.
    """
    of_attacked, of_clean = 0.25 / max(1, attacked), 0.25 / max(1, pictures)  # the largest variances of a share
    clean, fgsm, pgd10 = figures["val_clean"], figures["val_fgsm"], figures["val_pgd10"]
    if best_pgd > 0.1 and pgd10 < 0.5 * best_pgd and fgsm > pgd10 + max(0.1, 3 * (2 * of_attacked) ** 0.5):
        return (
            f"catastrophic overfitting: FGSM accuracy {fgsm:.3f} but PGD-10 accuracy {pgd10:.3f}, down from "
            f"{best_pgd:.3f}; train with {_remedies(config)}"
        )
    if max(fgsm, pgd10) > clean + max(0.05, 3 * (of_attacked + of_clean) ** 0.5):
        of_block = config.method == "self-gradient"
        remedies = "a lower --block-scale or --attack-view smooth" if of_block else _remedies(config)
        return (
            f"label leaking: attacked accuracy {max(fgsm, pgd10):.3f} above clean accuracy {clean:.3f}; train with "
            f"{remedies}, or start from an adversarially trained network (--init-from)"
        )
    return None


def _remedies(config: TrainConfig) -> str:
    """Return what this training could be given against overfitting to its attack, among what its method takes."""
    taken = {
        item.name
        for item in described_options(TrainConfig)
        if not item.option.methods or config.method in item.option.methods
    }
    remedies = []
    if "attack" in taken and config.attack != "n-fgsm":
        instead = " instead of --attack-start prior" if config.attack_start == "prior" else ""
        remedies.append(f"--attack n-fgsm{instead}")
    if "attack_steps" in taken and config.start_consistency == 0:
        remedies.append("more --attack-steps" if config.attack == "pgd" else "--attack pgd with more --attack-steps")
    if "gradient_alignment" in taken and config.gradient_alignment == 0:
        remedies.append("--gradient-alignment 0.2")
    return f"{', '.join(remedies)} or a lower --lr" if remedies else "a lower --lr"
