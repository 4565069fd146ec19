import json
import re

import pytest

from training.config import METHODS, TrainConfig, check_given, recipe_defaults


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"epsilon": 8}, "write 8 of 255 levels as 8/255"),
        ({"attack_step_size": 2}, "write 2 of 255 levels as 2/255"),
        ({"block_scale": 8}, "8/255"),
        ({"epsilon": -0.1}, "[0, 1)"),
        ({"attack_steps": 0}, "--method standard"),
        ({"epsilon": 0.0}, "pass an --epsilon"),
        ({"epochs": 0}, "epochs must be above 0"),
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
        ({"method": "gradient-oracle", "init_from": "x"}, "leave --init-from away"),
    ],
)
def test_impossible_settings_name_the_fix(settings, fix):
    with pytest.raises(ValueError, match=re.escape(fix)) as caught:
        TrainConfig("cifar10", **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "given", "fix"),
    [
        ({"method": "pgd"}, "trades_beta", "it is for trades"),
        ({"method": "bilateral"}, "attack_steps", "does nothing for --method bilateral"),
        ({"method": "standard"}, "block_scale", "it is for self-gradient"),
        ({"attack": "n-fgsm"}, "attack_steps", "leave one of them away"),
        ({}, "attack_beta", "--attack-view smooth"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(settings, given, fix):
    with pytest.raises(ValueError, match=re.escape(fix)):
        check_given(TrainConfig("cifar10", **settings), [given])
    check_given(TrainConfig("cifar10", **settings), ["epochs", "lr", "seed", "ema_decay"])


def test_recipes_are_the_sources():
    assert recipe_defaults("cifar10", "trades") == {"attack_steps": 10, "attack_step_size": 2 / 255}
    assert recipe_defaults("cifar100", "bilateral") == {"label_beta": 11.0}
    assert TrainConfig("cifar10", **recipe_defaults("cifar10", "bilateral")).label_beta == 9
    for method in METHODS:
        TrainConfig("svhn", **({"method": method} | recipe_defaults("svhn", method)))


def test_a_recipe_written_before_a_setting_existed_means_its_default():
    config = TrainConfig("cifar10")
    values = json.loads(json.dumps(config.as_dict()))
    for name in ("activation", "trades_beta", "weight_perturbation", "cutmix", "attack_start"):
        del values[name]
    assert TrainConfig.from_dict(values) == config
