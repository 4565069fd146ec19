"""Average a network's weights over the course of training."""

from collections.abc import Sequence

import torch
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

    def update(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        # `count` is on the device of the tensors. Reading it there would wait for the GPU; the original is on the CPU.
        del count
        count = int(average.n_averaged)
        if averages[0].is_floating_point():
            kept = min(decay, (1 + count) / (10 + count))
            torch._foreach_lerp_(list(averages), list(current), 1 - kept)
        else:
            torch._foreach_copy_(list(averages), list(current))

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    # The copy that it starts from counts as the first network. Without that, the first update would overwrite the copy.
    average.n_averaged.fill_(1)
    return average
