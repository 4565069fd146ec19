"""A method from a configuration."""

from tests.training.methods.reference import configured
from training.config import METHODS
from training.methods import build_method
from training.methods.gradient_alignment import GradientAlignment
from training.methods.weight_perturbation import WeightPerturbation


def test_flags_that_are_off_leave_nothing_around_the_method():
    for name in METHODS:
        assert build_method(configured(name)) == build_method(configured(name, gradient_alignment=0.0, cutmix=0.0))
        assert not isinstance(build_method(configured(name)), GradientAlignment | WeightPerturbation)
    both = build_method(configured("pgd", gradient_alignment=0.2, weight_perturbation=0.005))
    assert isinstance(both, WeightPerturbation)
    assert isinstance(both.method, GradientAlignment)
