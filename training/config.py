"""The training configuration: one frozen record, saved into every checkpoint.

An option is described once, by its field of TrainConfig. The command line, the checks and the table in the
documentation follow from that; see training.common.described_options.
"""

import math
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, Literal

from sgn_serve.common.graph_format import MAX_SIDE
from sgn_serve.pictures.resizing import Resize
from training.common.command_line import INTENSITY, LARGEST_FLOAT, Option, OptionError, flag
from training.common.described_options import check_options
from training.data.automatic_split import TEST_SHARE
from training.data.datasets import DATASETS, IMAGE_FOLDER, VALIDATION_AT_MOST, VALIDATION_SHARE
from training.networks.names import ACTIVATIONS, KNOWN, TIMM_PREFIX, GradientScaling

BilateralTarget = Literal["most-confusing", "random"]

EPS = 8 / 255
"""The usual L-inf budget, in units of pixel intensity: taken where nothing names another one."""
METHODS = (
    "standard",
    "pgd",
    "bilateral",
    "trades",
    "nuat",
    "liet",
    "self-gradient",
    "gradient-denoiser",
    "gradient-oracle",
)

_ADVERSARIAL = ("pgd", "bilateral", "trades", "nuat", "liet", "self-gradient")
_ATTACKED_BY_PGD = ("pgd", "self-gradient", "gradient-denoiser", "gradient-oracle")
_NOT_ORACLE = tuple(method for method in METHODS if method != "gradient-oracle")
_NOT_BILATERAL = tuple(method for method in METHODS if method != "bilateral")
_MIXED_LABELS = tuple(method for method in _NOT_BILATERAL if method != "liet")
_SELF_GRADIENT = ("self-gradient",)
_DENOISER = ("gradient-denoiser",)
OWN_START = ("bilateral", "trades", "nuat")
"""Methods whose attack starts where their source says, or at the last perturbation."""
_TWO_PASSES = ("trades", "nuat")
"""Methods whose loss has a clean and an attacked pass."""

TIMM_WEIGHTS = "timm"
"""Value of --pretrained that stands for the weights that timm offers for the backbone."""

FINETUNE: dict[str, Any] = {"epochs": 10, "lr": 0.01, "lr_schedule": "cyclic"}
"""Defaults that the recipe "finetune" changes. docs/how-to/train.md says why.

Sources: the learning rate lies within the range that Kornblith et al., Do Better ImageNet Models Transfer Better?
(2019), search for SGD with Nesterov momentum 0.9; the rate that rises and falls once is Smith's (2018).
"""

BATCH_SIZE = 128
"""Pictures of a step, where nobody says how many and an epoch has FEWEST_STEPS of them."""
FEWEST_STEPS = 4
ATTACKED_SHARE, ATTACKED_AT_LEAST, ATTACKED_AT_MOST = 0.02, 32, 500
"""Validation pictures that are attacked, where nobody says how many, as a share of the pictures that are trained on."""


def options_in_words(settings: dict[str, Any]) -> str:
    """Return options with their values as they are written on a command line."""
    return ", ".join(f"{flag(name)} {value}" for name, value in settings.items())


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of a training run: all that decides its result besides its pictures.

    The defaults are the paper's recipe (section 5.1.2) for WRN-28-10 on CIFAR; the rest is common practice.

    Raises:
        OptionError: A value is out of range, or excludes another one.
    """

    dataset: Annotated[str, Option("which reader reads --data-root", choices=DATASETS)] = IMAGE_FOLDER
    arch: Annotated[str, Option(f"backbone: {KNOWN}")] = "wrn-28-10"
    method: Annotated[
        str,
        Option(
            "training method; gradient-oracle is table 1's experiment, told the gradient of its own true loss",
            choices=METHODS,
        ),
    ] = "self-gradient"
    dataset_name: Annotated[
        str, Option("what figures call the data, where --dataset does not say it", default="the name of --dataset")
    ] = ""
    image_size: Annotated[
        int | None,
        Option(
            "side in pixels that an image folder's pictures are resized to",
            minimum=1,
            maximum=MAX_SIDE,
            default="their common size; that of --init-from or of the timm network, or 32 to 128, where sizes differ",
        ),
    ] = None
    resize: Annotated[
        Resize,
        Option(
            "what happens to an image folder's pictures of another aspect: they are stretched, or their middle is "
            "cropped, or they are padded with white"
        ),
    ] = "stretch"
    activation: Annotated[
        str,
        Option(
            "activation of the backbone; the smooth ones let attacks see the self-gradient", choices=tuple(ACTIVATIONS)
        ),
    ] = "relu"
    init_from: Annotated[
        str,
        Option(
            "checkpoint, or weights of another program, of the same classes, whose backbone to start from",
            methods=_NOT_ORACLE,
            default="random weights",
            metavar="FILE",
        ),
    ] = ""
    pretrained: Annotated[
        str,
        Option(
            "weights to fine-tune: a checkpoint, or a file of another program; its normalisation stays, and the head "
            "is made anew for other classes; alone, it downloads what timm offers for --arch timm:NAME",
            methods=_NOT_ORACLE,
            default="none",
            metavar="FILE",
            alone=TIMM_WEIGHTS,
        ),
    ] = ""
    freeze_backbone: Annotated[
        bool,
        Option(
            "train the self-gradient block alone, and a head that --pretrained makes anew; the rest of the network "
            "stays as it is, batch-norm statistics and normalisation included",
            methods=_SELF_GRADIENT,
        ),
    ] = False
    recipe: Annotated[
        Literal["paper", "finetune"],
        Option(
            f"what sets the defaults of other options; finetune: {options_in_words(FINETUNE)}",
            default="finetune with --pretrained, else paper",
        ),
    ] = "paper"
    epochs: Annotated[int, Option("passes over the training pictures", above=0)] = 200
    minutes: Annotated[
        float,
        Option(
            "time budget: lays the schedule of --epochs over so many minutes, validation included, and ends with them; "
            "0: train --epochs",
            minimum=0,
            unit="minutes",
        ),
    ] = 0.0
    minutes_of: Annotated[
        Literal["wall", "core"],
        Option(
            "what --minutes counts: time on the clock, or processor time of all threads and processes, which other "
            "work on the machine does not change"
        ),
    ] = "wall"
    batch_size: Annotated[
        int | None,
        Option(
            "pictures a step, of all processes together",
            above=0,
            default=f"{BATCH_SIZE}, or fewer where an epoch would have less than {FEWEST_STEPS} steps",
        ),
    ] = None
    lr: Annotated[float, Option("peak learning rate", above=0)] = 0.1
    lr_schedule: Annotated[
        Literal["step", "cyclic"],
        Option("step: times --lr-decay at each of --lr-milestones; cyclic: linear up, then linear down to zero"),
    ] = "step"
    lr_milestones: Annotated[
        tuple[int, ...], Option("epochs after which the step schedule decays", minimum=0, unit="epochs")
    ] = (50, 100, 150)
    lr_decay: Annotated[float, Option("factor of the step schedule", minimum=0)] = 0.1
    lr_warmup: Annotated[
        float, Option("share of the epochs in which the cyclic schedule rises", minimum=0, below=1)
    ] = 0.2
    momentum: Annotated[float, Option("Nesterov momentum", minimum=0, below=1)] = 0.9
    weight_decay: Annotated[
        float, Option("L2 weight decay of the backbone; the self-gradient block has none", minimum=0)
    ] = 5e-4
    epsilon: Annotated[
        float,
        Option(
            "L-inf budget in units of pixel intensity, such as 8/255; 0: gradient-denoiser attacks nothing",
            minimum=0,
            below=1,
            unit=INTENSITY,
            aliases=("--eps",),
        ),
    ] = EPS
    attack: Annotated[
        Literal["pgd", "n-fgsm"],
        Option(
            "training attack; pgd is projected into the budget; n-fgsm is one step from stronger noise, not projected, "
            "and resists catastrophic overfitting",
            methods=_ATTACKED_BY_PGD,
        ),
    ] = "pgd"
    attack_steps: Annotated[
        int,
        Option(
            "steps of the pgd training attack",
            above=0,
            methods=(*_ATTACKED_BY_PGD, "trades", "nuat"),
            hint="to train without an attack pass --method standard",
        ),
    ] = 1
    attack_step_size: Annotated[
        float,
        Option(
            "size of its steps in units of pixel intensity, such as 2/255",
            minimum=0,
            below=1,
            methods=(*_ATTACKED_BY_PGD, "trades", "nuat"),
            unit=INTENSITY,
        ),
    ] = 10 / 255
    attack_start: Annotated[
        Literal["uniform", "image", "prior"],
        Option(
            "where the pgd training attack starts: at a uniform draw from the ball, at the picture, or at the "
            "picture's last perturbation (prior, also in place of the own start of bilateral, trades and nuat)",
            methods=(*_ATTACKED_BY_PGD, *OWN_START),
        ),
    ] = "uniform"
    start_consistency: Annotated[
        float,
        Option(
            "weight of the squared difference between the logits at the end and at the start of a one-step attack, "
            "such as 10; with --attack-start prior it is the one of FGSM-PGI; 0 for none",
            minimum=0,
            methods=("pgd",),
        ),
    ] = 0.0
    nuclear_weight: Annotated[
        float,
        Option(
            "weight of the nuclear norm in nuat at the end of training; it rises from 0", above=0, methods=("nuat",)
        ),
    ] = 4.0
    liet_weight: Annotated[
        float,
        Option("weight of the divergence in liet at the end of training; it rises from 0", above=0, methods=("liet",)),
    ] = 100.0
    noise_deviation: Annotated[
        float,
        Option(
            "standard deviation of the noise that gradient-denoiser adds, in units of pixel intensity, such as 8/255",
            above=0,
            maximum=1,
            methods=_DENOISER,
            unit=INTENSITY,
        ),
    ] = 8 / 255
    denoising_weight: Annotated[
        float,
        Option(
            "weight of the denoising loss in gradient-denoiser; it is 1 for a picture that keeps all of its noise",
            above=0,
            methods=_DENOISER,
        ),
    ] = 1.0
    joint_pass: Annotated[
        bool,
        Option(
            "one pass for clean and attacked pictures, with batch norm over both; off: a pass and statistics for each",
            methods=_TWO_PASSES,
        ),
    ] = False
    attack_view: Annotated[
        Literal["held", "smooth", "full"],
        Option(
            "how the training attack sees the self-gradient: held fixed, through the smooth surrogate, or "
            "differentiated in full (which needs a smooth --activation)",
            methods=_SELF_GRADIENT,
        ),
    ] = "held"
    attack_beta: Annotated[
        float, Option("softplus sharpness of the smooth surrogate", above=0, methods=_SELF_GRADIENT)
    ] = 20.0
    block_layers: Annotated[
        int,
        Option("1x1-convolution + tanh pairs in the self-gradient block", above=0, maximum=100, methods=_SELF_GRADIENT),
    ] = 5
    block_scale: Annotated[
        float,
        Option(
            "largest correction of a pixel in units of pixel intensity, such as 8/255 (1 is the paper's)",
            above=0,
            maximum=1,
            methods=_SELF_GRADIENT,
            unit=INTENSITY,
        ),
    ] = 8 / 255
    gradient_scaling: Annotated[
        GradientScaling,
        Option(
            "rms: each image's gradient is divided by its root mean square first; none: the paper's",
            methods=_SELF_GRADIENT,
        ),
    ] = "rms"
    plain_loss_share: Annotated[
        float,
        Option(
            "weight of the first pass's own cross-entropy in the loss; it costs no extra pass",
            minimum=0,
            below=1,
            methods=_SELF_GRADIENT,
        ),
    ] = 0.0
    trades_beta: Annotated[float, Option("weight of the divergence in trades", above=0, methods=("trades",))] = 6.0
    bilateral_target: Annotated[
        BilateralTarget, Option("class to which bilateral's attack moves a picture", methods=("bilateral",))
    ] = "most-confusing"
    label_beta: Annotated[
        float,
        Option(
            "how many times another class's share bilateral leaves the right class", above=0, methods=("bilateral",)
        ),
    ] = 9.0
    label_smoothing: Annotated[
        float,
        Option(
            "share of a label that all classes divide evenly in the loss; attacks use the true label",
            minimum=0,
            below=1,
            methods=_NOT_BILATERAL,
        ),
    ] = 0.0
    weight_perturbation: Annotated[
        float,
        Option("adversarial weight perturbation, relative to each weight's norm, such as 0.005; 0 for none", minimum=0),
    ] = 0.0
    gradient_alignment: Annotated[
        float,
        Option(
            "weight of gradient alignment, such as 0.2, against catastrophic overfitting; 0 for none",
            minimum=0,
            methods=_ADVERSARIAL,
        ),
    ] = 0.0
    cutout: Annotated[
        int, Option("side in pixels of a hole in each picture, such as 16; 0 for none", minimum=0, unit="pixels")
    ] = 0
    cutmix: Annotated[
        float,
        Option(
            "share of pictures that get a rectangle of another one and part of its label, such as 0.5; 0 for none",
            minimum=0,
            maximum=1,
            methods=_MIXED_LABELS,
            unit="a share of the pictures",
        ),
    ] = 0.0
    ema_decay: Annotated[
        float,
        Option(
            "decay a step of the weight average that is validated and saved, such as 0.995; 0 for none",
            minimum=0,
            below=1,
        ),
    ] = 0.0
    precision: Annotated[
        Literal["float32", "bf16"],
        Option("bf16 computes under autocast; weights stay float32", default="bf16 where the hardware computes in it"),
    ] = "bf16"
    random_resized_crop: Annotated[
        float,
        Option(
            "train on random crops of an image folder's pictures, of this share of the area or more, such as 0.35, and "
            "of an aspect from 3/4 to 4/3; needs --resize crop and --image-size; 0 for none",
            minimum=0,
            maximum=1,
            unit="a share of the area",
        ),
    ] = 0.0
    crop_padding: Annotated[int, Option("zero padding in pixels for random crops", minimum=0, unit="pixels")] = 4
    flip: Annotated[bool, Option("random mirror images")] = True
    test_share: Annotated[
        float,
        Option(
            "share of each class that is kept to judge on, where an image folder has neither train/ nor test/",
            above=0,
            below=1,
            unit="a share of the pictures",
        ),
    ] = TEST_SHARE
    validation_pictures: Annotated[
        int | None,
        Option(
            "training pictures held out for validation",
            above=0,
            default=f"{100 * VALIDATION_SHARE:g} % of them, at most {VALIDATION_AT_MOST}",
        ),
    ] = None
    validation_attacked: Annotated[
        int | None,
        Option(
            "how many of them are attacked after each epoch",
            above=0,
            default=f"{100 * ATTACKED_SHARE:g} % of the pictures that are trained on, "
            f"at least {ATTACKED_AT_LEAST} and at most {ATTACKED_AT_MOST}",
        ),
    ] = None
    # NumPy's range of seeds; torch's generators overflow at 2**43, because the trainer multiplies by a million.
    seed: Annotated[int, Option("seed of everything random", minimum=0, below=2**32)] = 0

    def __post_init__(self) -> None:
        """Check every value against its option, then the values against each other."""
        check_options(self)
        self._check_combination()

    def _check_combination(self) -> None:
        """Raise OptionError for settings that exclude each other."""
        if self.method not in ("standard", *_DENOISER) and self.epsilon == 0:
            raise OptionError(f"--method {self.method} attacks, but --epsilon is 0; pass an --epsilon such as 8/255")
        if self.attack_view != "held" and self.method != "self-gradient":
            raise OptionError(f"--attack-view {self.attack_view} looks through a block; pass --method self-gradient")
        if self.plain_loss_share > 0 and self.method != "self-gradient":
            raise OptionError("--plain-loss-share weighs the first of two passes; pass --method self-gradient")
        if self.attack == "n-fgsm" and self.method in ("bilateral", "trades", "nuat", "liet"):
            raise OptionError(f"--method {self.method} has an attack of its own; leave --attack n-fgsm away")
        if self.method == "bilateral":
            for name in ("label_smoothing", "cutmix"):
                if getattr(self, name) > 0:
                    raise OptionError(f"--method bilateral perturbs labels itself; leave {flag(name)} away")
        if self.method == "liet" and self.cutmix > 0:
            raise OptionError("--method liet starts from the pattern of one label a picture; leave --cutmix away")
        if self.attack_start == "prior":
            self._check_prior()
        if self.method in _DENOISER and self.epsilon == 0 and self.attack == "n-fgsm":
            raise OptionError("--attack n-fgsm does nothing with --epsilon 0; leave one of them away")
        if self.start_consistency > 0:
            if self.method != "pgd":
                raise OptionError("--start-consistency compares the ends of a plain attack; pass --method pgd")
            if self.attack == "pgd" and self.attack_steps > 1:
                raise OptionError(
                    f"--start-consistency shares the pass of a one-step attack, and --attack-steps is "
                    f"{self.attack_steps}; pass --attack-steps 1"
                )
        if self.gradient_alignment > 0 and self.method not in _ADVERSARIAL:
            raise OptionError(f"--gradient-alignment does nothing for --method {self.method}; leave it away")
        if self.lr_schedule == "step":
            self._check_highest_rate()
        if any(later <= earlier for earlier, later in pairwise(self.lr_milestones)):
            raise OptionError(
                f"--lr-milestones {' '.join(map(str, self.lr_milestones))} are out of order; give each once, rising"
            )
        if self.random_resized_crop > 0 and (self.resize != "crop" or self.image_size is None):
            raise OptionError(
                "--random-resized-crop is for an image folder's pictures that are judged by their middle; pass "
                "--resize crop and --image-size too, such as --image-size 224"
            )
        if self.init_from and self.pretrained:
            raise OptionError("--init-from and --pretrained both say what to start from; leave one of them away")
        if self.pretrained == TIMM_WEIGHTS and not self.arch.startswith(TIMM_PREFIX):
            raise OptionError(
                f"--pretrained alone takes the weights that timm offers, and --arch {self.arch} is none of timm's; "
                "name a file of weights by --pretrained FILE"
            )
        if self.freeze_backbone:
            if not self.start:
                raise OptionError(
                    "--freeze-backbone keeps a trained backbone; name its network by --init-from or --pretrained"
                )
            if self.weight_perturbation > 0:
                raise OptionError("--weight-perturbation moves the backbone; leave it or --freeze-backbone away")
        if self.method == "gradient-oracle" and self.start:
            raise OptionError(f"a gradient oracle has more input than other networks; leave {self.start_flag} away")

    def _check_highest_rate(self) -> None:
        """Raise OptionError for a step schedule that multiplies the learning rate beyond what float32 holds."""
        steps = len(self.lr_milestones)
        if self.lr_decay > 1 and math.log(self.lr) + steps * math.log(self.lr_decay) > math.log(LARGEST_FLOAT):
            raise OptionError(
                f"--lr {self.lr:g} times --lr-decay {self.lr_decay:g} at {steps} --lr-milestones is more than 32 bits "
                "hold; pass a smaller --lr-decay, such as 0.1"
            )

    def _check_prior(self) -> None:
        """Raise OptionError for settings that exclude a start at the last perturbation."""
        if self.method not in (*_ATTACKED_BY_PGD, *OWN_START):
            raise OptionError(f"--attack-start prior has no attack to start in --method {self.method}; leave it away")
        if self.attack == "n-fgsm":
            raise OptionError("--attack-start prior takes the place of the noise of --attack n-fgsm; leave one away")
        if self.epsilon == 0:
            raise OptionError("--attack-start prior has no attack to start in with --epsilon 0; leave one of them away")
        if self.random_resized_crop > 0:
            raise OptionError(
                "--attack-start prior cannot follow a picture through --random-resized-crop; leave one of them away"
            )
        if self.cutmix > 0:
            raise OptionError("--attack-start prior cannot follow a picture into another by --cutmix; leave one away")

    @property
    def adversarial(self) -> bool:
        """Whether training attacks its pictures."""
        return self.method != "standard" and self.epsilon > 0

    @property
    def start(self) -> str:
        """The file that training starts from, or TIMM_WEIGHTS; "" for random weights."""
        return self.pretrained or self.init_from

    @property
    def start_flag(self) -> str:
        """The option that named it, for messages."""
        return "--pretrained" if self.pretrained else "--init-from"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, as checkpoints and resumable states hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Return the configuration that as_dict described.

        Raises:
            OptionError: Fields are missing or unknown, or their values are not allowed.
        """
        wanted = {item.name for item in fields(cls)}
        if values.keys() != wanted:
            raise OptionError(f"other options than this version's: {', '.join(sorted(values.keys() ^ wanted))}")
        return cls(**{**values, "lr_milestones": tuple(values["lr_milestones"])})


def check_side(config: TrainConfig, side: int) -> None:
    """Refuse holes and paddings that are larger than the pictures.

    Args:
        config: The configuration.
        side: Shorter side of the pictures in pixels.

    Raises:
        OptionError: One of them is; the message names the fix.
    """
    padding = 0 if config.random_resized_crop > 0 else config.crop_padding
    for name, pixels in (("cutout", config.cutout), ("crop_padding", padding)):
        if pixels > side:
            raise OptionError(
                f"{flag(name)} {pixels} is more than the {side} pixels of a picture's side; pass a smaller one, such "
                f"as {flag(name)} {side // 8}"
            )
