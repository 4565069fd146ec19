"""The training configuration: one frozen record, saved into every checkpoint."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from training.attacks.pgd import Start
from training.networks.activations import ACTIVATIONS
from training.networks.self_gradient import GradientScaling

BilateralTarget = Literal["most-confusing", "random"]

METHODS = ("standard", "pgd", "bilateral", "trades", "self-gradient", "gradient-oracle")


_POSITIVE = (
    "epochs",
    "batch_size",
    "lr",
    "attack_steps",
    "attack_beta",
    "trades_beta",
    "label_beta",
    "block_layers",
    "validation_pictures",
    "validation_attacked",
)
_NOT_NEGATIVE = (
    "minutes",
    "weight_decay",
    "crop_padding",
    "lr_decay",
    "weight_perturbation",
    "gradient_alignment",
    "cutout",
)
_INTENSITIES = ("epsilon", "attack_step_size")
_SHARES = ("ema_decay", "plain_loss_share", "lr_warmup", "momentum", "label_smoothing")


def check_intensity(name: str, value: float) -> None:
    """raises ValueError for a value that is no difference of pixel intensities in [0, 1), such as 8 meant as 8/255"""
    if not 0 <= value < 1:
        meant = f"; write {value:g} of 255 levels as {value:g}/255" if 1 <= value <= 255 else ""
        raise ValueError(f"{name} must be in [0, 1), units of pixel intensity, not {value:g}{meant}")


@dataclass(frozen=True)
class TrainConfig:
    """The defaults are the paper's recipe (section 5.1.2) for WRN-28-10 on CIFAR; the rest is common practice.

    dataset_name:         what figures call the data ("" for the data set's own name)
    activation:           of the backbone, by its name in training.networks.activations; "relu" leaves a backbone as it
                          is
    init_from:            checkpoint whose backbone weights training starts from ("" for random ones)
    epochs:               passes over the training pictures
    minutes:              time budget: the epochs' learning-rate schedule is laid over so many minutes, validation
                          included, and training ends with them, however many epochs that makes; 0 for none
    lr:                   peak learning rate; lr_schedule "step" multiplies it by lr_decay at each of lr_milestones
                          (epochs), "cyclic" rises linearly for the first lr_warmup share and falls linearly to zero
    epsilon:              L-inf budget, units of pixel intensity
    attack:               the training attack: "pgd" (uniform start, projected) or "n-fgsm" (one step, stronger
                          noise, not projected: a remedy for catastrophic overfitting)
    attack_steps,
    attack_step_size:     of "pgd"; the size in units of pixel intensity
    attack_start:         of "pgd": a uniform draw from the ball, or the image itself
    attack_view:          how the training attack sees the self-gradient: held fixed, through the smooth surrogate, or
                          in full, through both passes (which needs a smooth activation)
    attack_beta:          softplus sharpness of the smooth view
    block_layers,
    block_scale,
    gradient_scaling:     SelfGradientBlock's arguments, for method self-gradient
    plain_loss_share:     weight of the first pass's own cross-entropy in the loss, in [0, 1); it costs no extra pass
    trades_beta:          weight of the divergence, for method trades
    bilateral_target,
    label_beta:           BilateralTraining's arguments, for method bilateral
    label_smoothing:      share of a label that all classes divide evenly in the loss; attacks use the true label
    weight_perturbation:  gamma of adversarial weight perturbation; 0 for none
    gradient_alignment:   lambda of gradient alignment; 0 for none
    cutout:               side in pixels of the hole that is cut into each picture; 0 for none
    cutmix:               share of the pictures that get a rectangle of another one and part of its label
    ema_decay:            per-step decay of the weight average that is validated and saved; 0 for none
    precision:            "bf16" computes under autocast; parameters stay float32
    validation_pictures:  held out of the training pictures
    validation_attacked:  how many of them are attacked after each epoch
    """

    dataset: str
    arch: str = "wrn-28-10"
    method: str = "self-gradient"
    dataset_name: str = ""
    image_size: int | None = None
    activation: str = "relu"
    init_from: str = ""
    epochs: int = 200
    minutes: float = 0.0
    batch_size: int = 128
    lr: float = 0.1
    lr_schedule: Literal["step", "cyclic"] = "step"
    lr_milestones: tuple[int, ...] = (50, 100, 150)
    lr_decay: float = 0.1
    lr_warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    epsilon: float = 8 / 255
    attack: Literal["pgd", "n-fgsm"] = "pgd"
    attack_steps: int = 1
    attack_step_size: float = 10 / 255
    attack_start: Start = "uniform"
    attack_view: Literal["held", "smooth", "full"] = "held"
    attack_beta: float = 20.0
    block_layers: int = 5
    block_scale: float = 8 / 255
    gradient_scaling: GradientScaling = "rms"
    plain_loss_share: float = 0.0
    trades_beta: float = 6.0
    bilateral_target: BilateralTarget = "most-confusing"
    label_beta: float = 9.0
    label_smoothing: float = 0.0
    weight_perturbation: float = 0.0
    gradient_alignment: float = 0.0
    cutout: int = 0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    precision: Literal["float32", "bf16"] = "bf16"
    crop_padding: int = 4
    flip: bool = True
    validation_pictures: int = 2000
    validation_attacked: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; known are: {', '.join(METHODS)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}; known are: {', '.join(ACTIVATIONS)}")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                fix = "; to train without an attack pass --method standard" if name == "attack_steps" else ""
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}{fix}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in _INTENSITIES:
            check_intensity(name, getattr(self, name))
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if not 0 <= self.cutmix <= 1:
            raise ValueError(f"cutmix is a share of the pictures, in [0, 1], not {self.cutmix}")
        if not 0 < self.block_scale <= 1:
            raise ValueError(
                f"block_scale must be in (0, 1], units of pixel intensity, not {self.block_scale:g}; write 8 of 255 "
                "levels as 8/255"
            )
        self._check_combination()

    def _check_combination(self) -> None:
        """raises ValueError for settings that exclude each other"""
        if self.method != "standard" and self.epsilon == 0:
            raise ValueError(f"--method {self.method} attacks, but epsilon is 0; pass an --epsilon such as 8/255")
        if self.attack_view != "held" and self.method != "self-gradient":
            raise ValueError(f"--attack-view {self.attack_view} looks through a block; pass --method self-gradient")
        if self.plain_loss_share > 0 and self.method != "self-gradient":
            raise ValueError("--plain-loss-share weighs the first of two passes; pass --method self-gradient")
        if self.attack == "n-fgsm" and self.method in ("bilateral", "trades"):
            raise ValueError(f"--method {self.method} has an attack of its own; leave --attack n-fgsm away")
        if self.method == "bilateral":
            for name in ("label_smoothing", "cutmix"):
                if getattr(self, name) > 0:
                    raise ValueError(
                        f"--method bilateral perturbs labels itself; leave --{name.replace('_', '-')} away"
                    )
        if self.gradient_alignment > 0 and self.method in ("standard", "gradient-oracle"):
            raise ValueError(
                f"--gradient-alignment is for adversarial training, not --method {self.method}; leave it away"
            )
        if self.method == "gradient-oracle" and self.init_from:
            raise ValueError("a gradient oracle has more input than other networks; leave --init-from away")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        return cls(**{**values, "lr_milestones": tuple(values["lr_milestones"])})


def recipe_defaults(dataset: str, method: str) -> dict[str, Any]:
    """What the paper's recipe changes with the data set and the method, as TrainConfig's arguments.

    Source: section 5.1.2; one-step attack for self-gradient, ten steps of 2/255 for pgd (Madry), its equal with a
    gradient oracle, and trades; labels of bilateral as its authors recommend.
    """
    defaults: dict[str, Any] = {}
    if dataset == "svhn":
        # House numbers are not mirror-symmetric.
        defaults |= {"lr": 0.01, "flip": False}
    if method in ("pgd", "trades", "gradient-oracle"):
        defaults |= {"attack_steps": 10, "attack_step_size": 2 / 255}
    if method == "bilateral" and dataset == "cifar100":
        defaults |= {"label_beta": 11.0}
    return defaults


_ATTACKED_BY_PGD = ("pgd", "self-gradient", "gradient-oracle")
_BELONGS_TO: dict[str, tuple[str, ...]] = {
    "attack": _ATTACKED_BY_PGD,
    "attack_start": _ATTACKED_BY_PGD,
    "attack_steps": (*_ATTACKED_BY_PGD, "trades"),
    "attack_step_size": (*_ATTACKED_BY_PGD, "trades"),
    "attack_view": ("self-gradient",),
    "attack_beta": ("self-gradient",),
    "block_layers": ("self-gradient",),
    "block_scale": ("self-gradient",),
    "gradient_scaling": ("self-gradient",),
    "plain_loss_share": ("self-gradient",),
    "trades_beta": ("trades",),
    "bilateral_target": ("bilateral",),
    "label_beta": ("bilateral",),
}


def check_given(config: TrainConfig, given: Iterable[str]) -> None:
    """Refuses settings that somebody gave and that would be ignored.

    given: names of the fields that were set on purpose
    raises ValueError
    """
    for name in given:
        flag = "--" + name.replace("_", "-")
        methods = _BELONGS_TO.get(name, (config.method,))
        if config.method not in methods:
            raise ValueError(f"{flag} does nothing for --method {config.method}; it is for {', '.join(methods)}")
        if config.attack == "n-fgsm" and name in ("attack_start", "attack_steps", "attack_step_size"):
            raise ValueError(f"{flag} does nothing for --attack n-fgsm, one step from noise; leave one of them away")
        if name == "attack_beta" and config.attack_view != "smooth":
            raise ValueError("--attack-beta is the smooth surrogate's; add --attack-view smooth")
