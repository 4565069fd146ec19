import pytest
import torch
from torch import Tensor, nn

from export.rewrite.in_place import write_activations_out_of_place
from tests.export.rewrite.graphs import assert_kept, aten, captured, operators


def network(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation),
        *(nn.Conv2d(8, 4, 3), activation, nn.Flatten(), nn.Linear(4 * 4 * 4, 5)),
    )


@pytest.mark.parametrize(
    "activation", [nn.ReLU6(inplace=True), nn.Hardswish(inplace=True)], ids=["ReLU6", "hard-swish"]
)
def test_nothing_is_copied(activation: nn.Module) -> None:
    graph = captured(network(activation))
    assert operators(graph)[aten.copy_.default] == 4
    assert_kept(graph, write_activations_out_of_place)
    after = operators(graph)
    assert after[aten.copy_.default] == after[aten.clone.default] == 0


class ReadsBoth(nn.Module):
    """A view of the features that is read after they were overwritten."""

    def forward(self, features: Tensor) -> Tensor:
        features = features * 1
        rows = features.flatten(2)
        nn.functional.relu6(features, inplace=True)
        return features + rows.view(features.shape)


def test_features_that_a_view_shares_stay() -> None:
    torch.manual_seed(0)
    assert_kept(captured(network(ReadsBoth())), write_activations_out_of_place)
