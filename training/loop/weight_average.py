"""Average a network's weights over the course of training."""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def weight_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a network's parameters and buffers, which starts as a copy of it.

    AveragedModel.update_parameters(model) adds the network after a step. Step s keeps a share of
    min(decay, (1 + s) / (10 + s)) of the average, so that the average forgets the untrained start.

    Args:
        model: The network before its first step.
        decay: Share of the average that a step keeps.
    """

    def update(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not average.is_floating_point():
            return current
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        return average.lerp(current, 1 - kept)

    average = AveragedModel(model, avg_fn=update, use_buffers=True)
    # The copy that it starts from counts as the first network. Without that, the first update would overwrite the copy.
    average.n_averaged.fill_(1)
    return average
