"""Train a network whose logits are a density of noisy pictures, so that its input gradient removes the noise."""

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from training.common.precision import at_least_float32
from training.derivatives.double_backward import CheapSecondDerivatives
from training.methods.adversarial import AdversarialTraining
from training.methods.standard import Standard
from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.methods.training_attack import TrainingAttack
from training.networks.defences.log_density import log_sum_exp
from training.networks.self_gradient import SelfGradientNetwork
from training.parallel.synchronised import draw_like


@dataclass(frozen=True)
class GradientDenoiserTraining:
    """Cross-entropy of noisy pictures, plus how much of the noise the gradient of log-sum-exp leaves.

    Taken from the source: the logits are a joint log-density of noisy pictures and classes, so their log-sum-exp is
    that of the pictures. Tweedie's formula denoises with its gradient. The loss is the cross-entropy plus the squared
    error of the denoised picture over the variance of the noise: denoising score matching.

    Chosen here: the log-density of pictures is log-sum-exp over the variance, so the picture plus the gradient of
    log-sum-exp is the denoised one. In the source's unit the gradient would have to be larger by one over the
    variance, and so would the logits: bf16 could not tell the classes apart.

    There is one deviation instead of a range of them, and the error has a weight. Cross-entropy sees attacked
    pictures with that noise, so that the network withstands attacks. The denoiser sees pictures that are not attacked,
    because its theory is of Gaussian noise. Backbones are those of other methods. The source has one of its own, with
    smooth activations and group norm instead of batch norm.

    So batch norm is frozen in the pass that denoises, as in the first pass of a self-gradient network. The other pass
    moves its statistics. Half of the cross-entropy is that of the frozen pass, on noisy pictures as in the source.
    Without it the denoising loss alone shapes that pass, and evaluation runs on the same statistics.
    A step costs what one of method self-gradient does.

    Attributes:
        training_attack: Attacks each batch. None for none.
        deviation: Standard deviation of the noise, units of pixel intensity.
        weight: Weight of the denoising loss.
        label_smoothing: Share of a label that all classes divide evenly in the loss.

    Source: Thiry and Guth, Classification-Denoising Networks (2024).
    """

    training_attack: TrainingAttack | None
    deviation: float
    weight: float
    label_smoothing: float = 0.0

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack the pictures, and draw the noise."""
        method = Standard() if self.training_attack is None else AdversarialTraining(self.training_attack)
        batch = method.attack(model, images, targets, context)
        return replace(batch, noise=draw_like(images, lambda values: values.normal_(0, self.deviation)))

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the cross-entropy of attacked and of noisy pictures, half each, plus the weighted denoising loss.

        Raises:
            ValueError: The batch has no noise.
        """
        if batch.noise is None:
            raise ValueError("the batch has no noise; its method's attack draws it")
        with CheapSecondDerivatives():
            noisy, gradient = model.input_gradient(batch.images + batch.noise, log_sum_exp)
        # The denoised picture minus the picture, over the deviation.
        error = (batch.noise + at_least_float32(gradient)) / self.deviation
        logits = at_least_float32(model.plain_logits(batch.attacked + batch.noise))
        entropies = [
            F.cross_entropy(answers, batch.targets, label_smoothing=self.label_smoothing)
            for answers in (logits, at_least_float32(noisy))
        ]
        loss = (entropies[0] + entropies[1]) / 2
        return Step(loss + self.weight * error.square().mean(), logits)
