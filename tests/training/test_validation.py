import torch

from training.block_effect import measure_block_effect
from training.validation import Validation, collapse


def figures(clean: float, fgsm: float, pgd10: float) -> dict[str, float]:
    return {"val_clean": clean, "val_fgsm": fgsm, "val_pgd10": pgd10}


def test_catastrophic_overfitting_is_noticed():
    problem = collapse(figures(0.7, 0.65, 0.02), best_pgd=0.35)
    assert problem is not None
    assert "catastrophic overfitting" in problem
    assert "--attack n-fgsm" in problem


def test_label_leaking_is_noticed():
    problem = collapse(figures(0.4, 0.8, 0.9), best_pgd=0.3)
    assert problem is not None
    assert "label leaking" in problem


def test_healthy_and_early_training_is_left_alone():
    assert collapse(figures(0.6, 0.38, 0.35), best_pgd=0.36) is None
    assert collapse(figures(0.1, 0.1, 0.0), best_pgd=0.0) is None
    assert collapse(figures(0.2, 0.22, 0.2), best_pgd=0.1) is None


def test_lowest_is_no_higher_than_any_attack_and_the_block_is_measured(network):
    model = network(scale=8 / 255)
    images = torch.rand(20, 3, 16, 16)
    labels = model(images).argmax(dim=1)
    measured = Validation(images, labels, attacked=10, eps=8 / 255, seed=0).measure(model)
    assert measured["val_clean"] == 1
    attacked = [value for name, value in measured.items() if name.startswith("val_") and "clean" not in name]
    assert measured["val_lowest"] == min(attacked) or measured["val_lowest"] < min(attacked)
    assert {"val_smooth_cw10", "val_block_off_cw10"} <= set(measured)
    assert measured["block_correction_mean_abs"] > 1 / 255


def test_block_effect_of_a_dead_block_is_zero(network):
    model = network(scale=0.0)
    images = torch.rand(6, 3, 16, 16)
    effect = measure_block_effect(model, images, images, eps=8 / 255, seed=0)
    assert effect.correction_mean_abs == 0
    assert effect.correction_change == 0
    assert effect.answers_changed == effect.answers_changed_attacked == 0
    assert effect.gradient_mean_abs > 0
