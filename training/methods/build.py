"""Build the training method that a configuration names."""

from training.config import TrainConfig
from training.methods.adversarial import AdversarialTraining
from training.methods.bilateral import BilateralTraining
from training.methods.gradient_alignment import GradientAlignment
from training.methods.gradient_denoiser import GradientDenoiserTraining
from training.methods.gradient_oracle import OracleTraining
from training.methods.label_information import LabelInformationTraining
from training.methods.nuclear_norm import NuclearNormTraining
from training.methods.self_gradient import SelfGradientTraining
from training.methods.standard import Standard
from training.methods.start_consistency import StartConsistencyTraining
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
    # Perturbed weights make other logits than those that the attack saw.
    keep = config.weight_perturbation == 0
    match config.method:
        case "standard":
            return Standard(smoothing)
        case "pgd" if config.start_consistency > 0:
            return StartConsistencyTraining(attack, config.start_consistency, smoothing, keep)
        case "pgd":
            return AdversarialTraining(attack, smoothing)
        case "trades":
            steps, step_size = config.attack_steps, config.attack_step_size
            return Trades(config.epsilon, steps, step_size, config.trades_beta, smoothing, config.joint_pass)
        case "nuat":
            steps, step_size, weight = config.attack_steps, config.attack_step_size, config.nuclear_weight
            return NuclearNormTraining(config.epsilon, steps, step_size, weight, smoothing, config.joint_pass, keep)
        case "liet":
            return LabelInformationTraining(config.epsilon, config.liet_weight, smoothing, keep)
        case "bilateral":
            return BilateralTraining(config.epsilon, config.label_beta, config.bilateral_target)
        case "gradient-denoiser":
            deviation, weight = config.noise_deviation, config.denoising_weight
            return GradientDenoiserTraining(attack if config.epsilon > 0 else None, deviation, weight, smoothing)
        case "gradient-oracle":
            return OracleTraining(attack, smoothing)
        case "self-gradient":
            return SelfGradientTraining(
                attack, config.attack_view, config.attack_beta, config.plain_loss_share, smoothing
            )
    raise ValueError(f"no training method is called {config.method!r}")
