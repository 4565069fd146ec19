import math
import re
from dataclasses import MISSING, fields, replace

import pytest

from training.common.command_line import OptionError, flag
from training.common.described_options import described_options
from training.config import METHODS, TrainConfig


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"epsilon": 8}, "write 8 of 255 levels as 8/255"),
        ({"attack_step_size": 2}, "write 2 of 255 levels as 2/255"),
        ({"block_scale": 8}, "8/255"),
        ({"epsilon": -0.1}, "[0, 1)"),
        ({"attack_steps": 0}, "--method standard"),
        ({"epsilon": 0.0}, "pass an --epsilon"),
        ({"epochs": 0}, "--epochs must be above 0, not 0"),
        ({"lr": math.nan}, "--lr must be above 0, not nan"),
        ({"lr": math.inf}, "--lr must be above 0, not inf"),
        ({"lr_milestones": (50, -1)}, "--lr-milestones must be at least 0, epochs, not -1"),
        ({"image_size": 0}, "--image-size must be in [1, 4096], not 0"),
        ({"seed": 2**32}, "--seed must be in [0, 4294967296), not 4294967296"),
        ({"seed": 10**400}, "--seed must be in [0, 4294967296), and a number that 64 bits hold"),
        ({"epochs": 2**63}, "--epochs must be above 0, and a number that 64 bits hold"),
        ({"lr": 1e308}, "--lr must be above 0, and a number that 32 bits hold, not 1e+308; the largest is 3.4e+38"),
        ({"lr_decay": 1e20}, "--lr 0.1 times --lr-decay 1e+20 at 3 --lr-milestones is more than 32 bits hold; pass a"),
        ({"minutes": math.inf}, "--minutes must be at least 0, minutes, not inf"),
        ({"image_size": 4097}, "--image-size must be in [1, 4096], not 4097"),
        ({"lr_milestones": (100, 50)}, "--lr-milestones 100 50 are out of order; give each once, rising"),
        ({"lr_milestones": (50, 50)}, "are out of order"),
        ({"image_size": -3}, "--image-size must be in [1, 4096], not -3"),
        ({"block_scale": 0.0}, "in (0, 1]"),
        ({"lr_schedule": "linear"}, "known are: step, cyclic"),
        ({"attack_start": "near"}, "known are: uniform, image, prior"),
        ({"dataset": "mnist"}, "known are: cifar10"),
        ({"weight_decay": -1.0}, "at least 0"),
        ({"momentum": 1.0}, "[0, 1)"),
        ({"cutmix": 1.5}, "share of the pictures"),
        ({"method": "fgsm"}, "known are: standard"),
        ({"activation": "tanh"}, "known are: relu"),
        ({"method": "pgd", "attack_view": "smooth"}, "--method self-gradient"),
        ({"method": "pgd", "plain_loss_share": 0.3}, "--method self-gradient"),
        ({"method": "trades", "attack": "n-fgsm"}, "leave --attack n-fgsm away"),
        ({"method": "bilateral", "cutmix": 0.5}, "leave --cutmix away"),
        ({"method": "bilateral", "label_smoothing": 0.1}, "leave --label-smoothing away"),
        ({"method": "standard", "gradient_alignment": 0.2}, "leave it away"),
        ({"method": "nuat", "attack": "n-fgsm"}, "leave --attack n-fgsm away"),
        ({"method": "gradient-denoiser", "gradient_alignment": 0.2}, "leave it away"),
        (
            {"method": "gradient-denoiser", "epsilon": 0.0, "attack": "n-fgsm"},
            "does nothing with --epsilon 0; leave one",
        ),
        ({"method": "gradient-denoiser", "epsilon": 0.0, "attack_start": "prior"}, "with --epsilon 0; leave one"),
        ({"noise_deviation": 8}, "8/255"),
        ({"denoising_weight": 0.0}, "--denoising-weight must be above 0"),
        ({"method": "liet", "cutmix": 0.5}, "leave --cutmix away"),
        ({"method": "liet", "attack_start": "prior"}, "has no attack to start in --method liet; leave it away"),
        ({"method": "pgd", "attack": "n-fgsm", "attack_start": "prior"}, "leave one away"),
        ({"method": "pgd", "cutmix": 0.5, "attack_start": "prior"}, "by --cutmix; leave one away"),
        (
            {"attack_start": "prior", "random_resized_crop": 0.3, "resize": "crop", "image_size": 8},
            "through --random-resized-crop; leave one of them away",
        ),
        ({"method": "trades", "start_consistency": 10.0}, "pass --method pgd"),
        ({"method": "pgd", "attack_steps": 2, "start_consistency": 10.0}, "pass --attack-steps 1"),
        ({"method": "gradient-oracle", "init_from": "x"}, "leave --init-from away"),
    ],
)
def test_impossible_settings_name_the_fix(settings, fix):
    with pytest.raises(OptionError, match=re.escape(fix)) as caught:
        TrainConfig(**({"dataset": "cifar10"} | settings))
    assert "\n" not in str(caught.value)


def test_a_configuration_survives_its_dictionary():
    config = TrainConfig("image-folder", method="trades", lr_milestones=(1, 2), image_size=8, resize="crop")
    config = replace(config, random_resized_crop=0.35, test_share=0.3)
    config = replace(config, minutes=1, minutes_of="core", nuclear_weight=8.0, liet_weight=50.0, joint_pass=True)
    config = replace(config, method="pgd", attack_steps=1, start_consistency=10.0)
    assert TrainConfig.from_dict(config.as_dict()) == config
    config = replace(config, start_consistency=0.5, method="pgd", noise_deviation=0.1, denoising_weight=2.0)
    config = replace(config, pretrained="x", freeze_backbone=True, recipe="finetune")
    values = config.as_dict()
    assert values == {item.name: getattr(config, item.name) for item in fields(TrainConfig)}
    assert TrainConfig.from_dict(values | {"lr_milestones": [1, 2]}) == config


def test_a_dictionary_with_other_options_is_refused():
    values = TrainConfig("cifar10").as_dict()
    missing = {name: value for name, value in values.items() if name != "cutmix"}
    for changed, name in ((missing, "cutmix"), (values | {"dropout": 0.1}, "dropout")):
        with pytest.raises(OptionError, match=f"other options than this version's: {name}$"):
            TrainConfig.from_dict(changed)


def test_every_option_is_described_and_its_default_allowed():
    described = described_options(TrainConfig)
    assert [item.name for item in described] == [item.name for item in fields(TrainConfig)]
    for item in described:
        assert item.option.help
        assert set(item.option.methods) <= set(METHODS)
        if item.default is not MISSING:
            item.option.check(item.name, item.default)
        if item.kind == "number":
            with pytest.raises(OptionError, match=f"{flag(item.name)} must be "):
                item.option.check(item.name, 1e300)
        # Every number is bounded, so that a message can name the range.
        if isinstance(item.default, int | float) and not isinstance(item.default, bool):
            assert item.option.range
