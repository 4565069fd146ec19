"""The average of --ema-decay."""

import pytest
import torch
from torch import nn

from training.loop.weight_average import weight_average


def changed(model: nn.Module) -> None:
    """Give a network other parameters and other statistics."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
            else:
                tensor.add_(1)


@pytest.mark.parametrize("decay", [0.25, 0.9])
def test_it_is_the_moving_average_of_parameters_and_buffers(decay):
    """The reference is the definition, written out; the first steps keep less than `decay`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = weight_average(model, decay)
    for step in range(1, 20):
        changed(model)
        average.update_parameters(model)
        kept = min(decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            mean = kept * expected[name] + (1 - kept) * tensor
            expected[name] = mean if tensor.is_floating_point() else tensor.clone()
    averaged = average.module.state_dict()
    assert averaged.keys() == expected.keys()
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor, expected[name])
    assert averaged["1.num_batches_tracked"] == 19


def test_the_network_itself_stays_as_it_was():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    average = weight_average(model, 0.9)
    with torch.no_grad():
        average.module.get_parameter("weight").zero_()
    assert torch.equal(model.weight, before)
