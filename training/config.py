"""The training configuration: one frozen record, saved into every checkpoint."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from training.model import GradientScaling

METHODS = ("standard", "pgd", "self-gradient")


@dataclass(frozen=True)
class TrainConfig:
    """The defaults are the paper's recipe (section 5.1.2) for WRN-28-10 on CIFAR; the rest is common practice.

    dataset_name:         what figures call the data ("" for the data set's own name)
    init_from:            checkpoint whose backbone weights training starts from ("" for random ones)
    epochs:               passes over the training pictures
    lr:                   peak learning rate; lr_schedule "step" multiplies it by lr_decay at each of lr_milestones
                          (epochs), "cyclic" rises linearly for the first lr_warmup share and falls linearly to zero
    epsilon:              L-inf budget, units of pixel intensity
    attack:               the training attack: "pgd" (uniform start, projected) or "n-fgsm" (one step, stronger
                          noise, not projected: a remedy for catastrophic overfitting)
    attack_steps,
    attack_step_size:     of "pgd"; the size in units of pixel intensity
    attack_view:          how the training attack sees the self-gradient: held fixed, or through the smooth surrogate
    attack_beta:          softplus sharpness of the smooth view
    block_layers,
    block_scale,
    gradient_scaling:     SelfGradientBlock's arguments, for method self-gradient
    plain_loss_share:     weight of the first pass's own cross-entropy in the loss, in [0, 1); it costs no extra pass
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
    init_from: str = ""
    epochs: int = 200
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
    attack_view: Literal["held", "smooth"] = "held"
    attack_beta: float = 20.0
    block_layers: int = 5
    block_scale: float = 8 / 255
    gradient_scaling: GradientScaling = "rms"
    plain_loss_share: float = 0.0
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
        positive = ("epochs", "batch_size", "lr", "attack_steps", "validation_pictures", "validation_attacked")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("epsilon", "attack_step_size", "ema_decay", "plain_loss_share", "lr_warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        return cls(**{**values, "lr_milestones": tuple(values["lr_milestones"])})


def recipe_defaults(dataset: str, method: str) -> dict[str, Any]:
    """What the paper's recipe changes with the data set and the method, as TrainConfig's arguments.

    Source: section 5.1.2; one-step attack for self-gradient, ten steps of 2/255 for pgd (Madry).
    """
    defaults: dict[str, Any] = {}
    if dataset == "svhn":
        # House numbers are not mirror-symmetric.
        defaults |= {"lr": 0.01, "flip": False}
    if method == "pgd":
        defaults |= {"attack_steps": 10, "attack_step_size": 2 / 255}
    return defaults
