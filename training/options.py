"""Describe the command line of python -m training."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from training.common.command_line import number
from training.config import METHODS, TrainConfig, check_given, recipe_defaults
from training.data.loading import DATASETS
from training.networks.activations import ACTIVATIONS, with_activation
from training.networks.backbones import KNOWN, build_backbone

CHOICES = {
    "dataset": DATASETS,
    "method": METHODS,
    "lr_schedule": ("step", "cyclic"),
    "attack": ("pgd", "n-fgsm"),
    "attack_start": ("uniform", "image"),
    "attack_view": ("held", "smooth", "full"),
    "bilateral_target": ("most-confusing", "random"),
    "activation": tuple(ACTIVATIONS),
    "gradient_scaling": ("none", "rms"),
    "precision": ("float32", "bf16"),
}


HELP = {
    "dataset": "which reader reads --data-root",
    "arch": f"backbone: {KNOWN}",
    "method": "training method; gradient-oracle is table 1's experiment, told the gradient of its own true loss",
    "activation": "of the backbone; the smooth ones let attacks see the self-gradient",
    "dataset_name": "what figures call the data, where --dataset does not say it",
    "image_size": "side in pixels that an image folder's pictures are resized to",
    "init_from": "checkpoint whose backbone weights to start from",
    "epochs": "passes over the training pictures",
    "minutes": "lay the schedule of --epochs over so many minutes, validation included, and end with them; 0: train "
    "--epochs",
    "batch_size": "pictures a step, of all processes together",
    "lr": "peak learning rate",
    "lr_schedule": "step: times --lr-decay at each of --lr-milestones; cyclic: linear up, then linear down to zero",
    "lr_milestones": "epochs at which the step schedule decays",
    "lr_decay": "factor of the step schedule",
    "lr_warmup": "share of the epochs in which the cyclic schedule rises",
    "momentum": "Nesterov momentum",
    "weight_decay": "L2 weight decay of the backbone (the block has none)",
    "epsilon": "L-inf budget in units of pixel intensity, such as 8/255",
    "attack": "training attack; n-fgsm is one step and resists catastrophic overfitting",
    "attack_steps": "steps of the pgd training attack",
    "attack_step_size": "its step in units of pixel intensity, such as 2/255",
    "attack_start": "where the pgd training attack starts: a uniform draw from the ball, or the picture",
    "attack_view": "training attack on a self-gradient network: gradient held fixed, seen by the smooth surrogate, or "
    "differentiated in full (smooth activations)",
    "attack_beta": "softplus sharpness of the smooth surrogate",
    "block_layers": "1x1-convolution + tanh pairs in the self-gradient block",
    "block_scale": "largest correction of a pixel, units of pixel intensity, such as 8/255 (1 is the paper's)",
    "gradient_scaling": "rms: each image's gradient is divided by its root mean square first; none: the paper's",
    "plain_loss_share": "weight of the block-off loss, from 0",
    "trades_beta": "weight of the divergence in trades",
    "bilateral_target": "class to which bilateral's attack moves a picture",
    "label_beta": "how many times another class's share bilateral leaves the right class",
    "label_smoothing": "share of a label that all classes divide evenly, from 0",
    "weight_perturbation": "adversarial weight perturbation, relative to each weight's norm, such as 0.005; 0 for none",
    "gradient_alignment": "weight of gradient alignment, such as 0.2, against catastrophic overfitting; 0 for none",
    "cutout": "side in pixels of a hole in each picture, such as 16; 0 for none",
    "cutmix": "share of pictures that get a rectangle of another one, such as 0.5; 0 for none",
    "ema_decay": "decay of the weight average that is validated and saved; 0 for none",
    "precision": "bf16 autocast or float32 (default: bf16 where the hardware computes in it)",
    "crop_padding": "zero padding in pixels for random crops",
    "flip": "random mirror images",
    "validation_pictures": "training pictures held out for validation",
    "validation_attacked": "how many of them are attacked after each epoch",
    "seed": "seed of everything random",
}


def hardware_precision(device: torch.device) -> str:
    """bf16 where the device computes in it, float32 where bf16 would be emulated and slower."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    # PyTorch has no public name for this; without the function, float32 is right everywhere, only slower.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if supported() else "float32"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m training",
        description="Trains a self-gradient network or a baseline. The defaults are the paper's recipe for WRN-28-10.",
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--run",
        # torchrun takes a --run anywhere on its command line for its own --run-path.
        "--run-name",
        help="name of the run: results go to runs/<name> (default: <arch>-<method>-<dataset>); "
        "under torchrun write --run-name",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run from its last whole epoch")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ...; under torchrun cuda is each process's own GPU",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads (default: all cores); figures depend on it in the last bits"
    )
    for item in fields(TrainConfig):
        options: dict[str, Any] = {"help": HELP[item.name], "default": argparse.SUPPRESS}
        if item.name in CHOICES:
            options["choices"] = CHOICES[item.name]
        elif item.name == "lr_milestones":
            options |= {"type": int, "nargs": "*", "metavar": "EPOCH"}
        elif item.name == "flip":
            options["action"] = argparse.BooleanOptionalAction
        elif item.name in ("arch", "dataset_name", "init_from"):
            options["type"] = str
        elif isinstance(item.default, float):
            options |= {"type": number, "metavar": "X"}
        else:
            options |= {"type": int, "metavar": "N"}
        parser.add_argument("--" + item.name.replace("_", "-"), required=item.name == "dataset", **options)
    return parser


def configure(arguments: argparse.Namespace, device: torch.device) -> TrainConfig:
    """Given flags over the recipe's defaults.

    raises ValueError for settings that are out of range or unknown
    """
    names = {item.name for item in fields(TrainConfig)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    if "lr_milestones" in given:
        given["lr_milestones"] = tuple(given["lr_milestones"])
    method = given.get("method", "self-gradient")
    defaults = recipe_defaults(given["dataset"], method) | {"precision": hardware_precision(device)}
    config = TrainConfig(**(defaults | given))
    check_given(config, given)
    image_size = (config.image_size, config.image_size) if config.image_size else None
    with_activation(build_backbone(config.arch, 2, image_size), config.activation)
    return config
