"""Build the training method that a configuration names."""

from training.config import TrainConfig
from training.methods.adversarial import AdversarialTraining
from training.methods.bilateral import BilateralTraining
from training.methods.gradient_alignment import GradientAlignment
from training.methods.gradient_oracle import OracleTraining
from training.methods.self_gradient import SelfGradientTraining
from training.methods.standard import Standard
from training.methods.step import Method
from training.methods.trades import Trades
from training.methods.training_attack import TrainingAttack
from training.methods.weight_perturbation import WeightPerturbation


def build_method(config: TrainConfig) -> Method:
    """Return the method that the configuration names, inside the remedies that its options add."""
    method = _method_alone(config)
    if config.gradient_alignment > 0:
        method = GradientAlignment(method, config.gradient_alignment, config.epsilon)
    if config.weight_perturbation > 0:
        method = WeightPerturbation(method, config.weight_perturbation)
    return method


def _method_alone(config: TrainConfig) -> Method:
    smoothing = config.label_smoothing
    attack = TrainingAttack.of(config)
    match config.method:
        case "standard":
            return Standard(smoothing)
        case "pgd":
            return AdversarialTraining(attack, smoothing)
        case "trades":
            return Trades(config.epsilon, config.attack_steps, config.attack_step_size, config.trades_beta, smoothing)
        case "bilateral":
            return BilateralTraining(config.epsilon, config.label_beta, config.bilateral_target)
        case "gradient-oracle":
            return OracleTraining(attack, smoothing)
        case "self-gradient":
            return SelfGradientTraining(
                attack, config.attack_view, config.attack_beta, config.plain_loss_share, smoothing
            )
    raise ValueError(f"no training method is called {config.method!r}")
