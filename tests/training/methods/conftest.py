"""A batch of six pictures, for each method's loss."""

import pytest
import torch


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
