"""The command line and the documentation's table follow from TrainConfig."""

import re

import pytest
import torch

from training.common.command_line import OptionError
from training.common.described_options import OptionRow, described_options, option_rows
from training.config import METHODS, TrainConfig
from training.options import build_parser, check_given, checked, configure, parse, recipe_defaults, variations

CPU = torch.device("cpu")
GIVEN = ["--data-root", "x", "--dataset", "cifar10"]


def test_what_is_not_given_is_the_recipes(monkeypatch):
    monkeypatch.setattr("training.hardware.hardware_precision", lambda device: "float32")
    for method in METHODS:
        parsed = parse(["--data-root", "x", "--dataset", "svhn", "--method", method])
        recipe = recipe_defaults("svhn", method)
        assert configure(parsed, CPU) == TrainConfig("svhn", method=method, precision="float32", **recipe)


@pytest.mark.parametrize(
    ("settings", "given", "fix"),
    [
        ({"method": "pgd"}, "trades_beta", "it is for trades"),
        ({"method": "bilateral"}, "attack_steps", "does nothing for --method bilateral"),
        ({"method": "standard"}, "block_scale", "it is for self-gradient"),
        ({"method": "standard"}, "gradient_alignment", "it is for pgd, bilateral, trades, nuat, liet, self-gradient"),
        ({"method": "bilateral"}, "cutmix", "it is for standard, pgd, trades, nuat, self-gradient, gradient-d"),
        ({"method": "trades"}, "attack_start", "pass --attack-start prior, or leave it away"),
        ({"method": "pgd"}, "nuclear_weight", "it is for nuat"),
        ({"method": "pgd"}, "noise_deviation", "it is for gradient-denoiser"),
        (
            {"method": "gradient-denoiser", "epsilon": 0.0},
            "attack_steps",
            "does nothing with --epsilon 0, which attacks",
        ),
        ({}, "minutes_of", "add --minutes, or leave it away"),
        ({"attack": "n-fgsm"}, "attack_steps", "leave one of them away"),
        ({}, "attack_beta", "--attack-view smooth"),
        ({"lr_schedule": "cyclic"}, "lr_milestones", "does nothing for --lr-schedule cyclic; add --lr-schedule step"),
        ({"lr_schedule": "cyclic"}, "lr_decay", "does nothing for --lr-schedule cyclic"),
        ({"epochs": 50}, "lr_milestones", "--lr-milestones 50 100 150 would never come in a training of --epochs 50;"),
        ({"epochs": 120}, "lr_milestones", "--lr-milestones 150 would never come in a training of --epochs 120; give"),
        ({}, "lr_warmup", "does nothing for --lr-schedule step; add --lr-schedule cyclic"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(settings, given, fix):
    with pytest.raises(OptionError, match=re.escape(fix)):
        check_given(TrainConfig("cifar10", **settings), [given])
    check_given(TrainConfig("cifar10", **settings), ["epochs", "lr", "seed", "ema_decay"])


def test_recipes_are_the_sources():
    assert recipe_defaults("cifar10", "trades") == {"attack_steps": 10, "attack_step_size": 2 / 255}
    assert recipe_defaults("cifar100", "bilateral") == {"label_beta": 11.0}
    assert TrainConfig("cifar10", **recipe_defaults("cifar10", "bilateral")).label_beta == 9
    for method in METHODS:
        TrainConfig("svhn", **({"method": method} | recipe_defaults("svhn", method)))


def test_every_kind_of_option_is_parsed():
    flags = ["--epsilon=4/255", "--epochs=3", "--no-flip", "--lr-milestones", "1", "2"]
    config = configure(parse([*GIVEN, *flags, "--image-size=32", "--precision=float32"]), CPU)
    assert config.epsilon == 4 / 255
    assert (config.epochs, config.flip, config.lr_milestones) == (3, False, (1, 2))
    assert (config.image_size, config.lr_schedule) == (32, "step")


@pytest.mark.parametrize("choice", ["--attack-view=blind", "--precision=fp8", "--attack-start=near"])
def test_choices_are_those_of_the_types(choice, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args([*GIVEN, choice])
    assert "unknown value" in capsys.readouterr().err


def test_a_table_row_for_every_option():
    rows = {row.name: row for row in option_rows(TrainConfig, variations)}
    assert list(rows) == ["--" + item.name.replace("_", "-") for item in described_options(TrainConfig)]
    assert all(
        row.help and row.type in ("number", "integer", "integers", "text", "switch", "choice") for row in rows.values()
    )
    assert rows["--attack-step-size"] == OptionRow(
        name="--attack-step-size",
        type="number",
        default="10/255; 2/255 for pgd, gradient-oracle, trades; 8/255 for nuat",
        range="in [0, 1)",
        methods="pgd, self-gradient, gradient-denoiser, gradient-oracle, trades, nuat",
        help="size of its steps in units of pixel intensity, such as 2/255",
    )
    assert rows["--lr"].default == "0.1; 0.01 for svhn; 0.01 with --recipe finetune"
    assert rows["--label-beta"].default == "9; 11 for cifar100"
    assert rows["--flip"].default == "on; off for svhn"
    assert rows["--lr-milestones"].default == "50 100 150"
    assert rows["--dataset"].range == "cifar10, cifar100, svhn, image-folder"
    assert rows["--block-scale"].range == "in (0, 1]"


def test_help_names_defaults_ranges_and_methods(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    text = build_parser().format_help()
    assert "weight of the divergence in trades (default: 6; above 0; for --method trades)" in text
    assert "passes over the training pictures (default: 200; 10 with --recipe finetune; above 0)" in text


def test_what_the_recipes_set():
    names = ("recipe", "epochs", "lr", "lr_schedule", "lr_warmup")
    for flags, values in (
        ((), ("paper", 200, 0.1, "step", 0.2)),
        (("--pretrained=x.pth",), ("finetune", 10, 0.01, "cyclic", 0.2)),
        (("--recipe=finetune",), ("finetune", 10, 0.01, "cyclic", 0.2)),
        (("--recipe=finetune", "--epochs=3", "--lr=0.02"), ("finetune", 3, 0.02, "cyclic", 0.2)),
        (("--pretrained=x.pth", "--recipe=paper"), ("paper", 200, 0.1, "step", 0.2)),
    ):
        config = checked(parse(["--data-root=x", *flags]))
        assert tuple(getattr(config, name) for name in names) == values, flags
