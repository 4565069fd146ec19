import pytest
from torch import Tensor, nn

from export.rewrite import rewrite
from export.rewrite.batch_norm import fold_batch_norms
from export.rewrite.constants import fold_constants
from tests.export.rewrite.graphs import assert_kept, aten, captured, operators

NORM = aten._native_batch_norm_legit_no_training.default


def backbone(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(4))


@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_after_a_convolution_is_folded_in_both_passes(bias: bool) -> None:
    graph = captured(backbone(nn.Conv2d(3, 6, 3, bias=bias), nn.BatchNorm2d(6), nn.ReLU()))
    assert operators(graph)[NORM] == 2
    assert_kept(graph, fold_batch_norms)
    assert operators(graph)[NORM] == 0


def test_grouped_convolutions_too() -> None:
    graph = captured(backbone(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU()))
    assert_kept(graph, fold_batch_norms)
    assert operators(graph)[NORM] == 0


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Flatten(2), nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)),
        (nn.Unflatten(1, (3, 1)), nn.Conv3d(3, 6, (1, 3, 3)), nn.BatchNorm3d(6)),
    ],
    ids=["1d", "3d"],
)
def test_along_one_and_three_axes(layers: tuple[nn.Module, ...]) -> None:
    graph = captured(backbone(*layers, nn.ReLU()))
    assert_kept(graph, rewrite)
    assert operators(graph)[NORM] == 0


class SumThenNorm(nn.Module):
    """Pre-activation: the norm follows a sum, and its input is used again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.classifier = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        return self.classifier((features + self.norm(features).relu()).mean((2, 3)))


def test_a_norm_whose_input_is_used_elsewhere_is_left_alone() -> None:
    graph = captured(SumThenNorm())
    before = operators(graph)
    assert_kept(graph, fold_batch_norms)
    assert operators(graph) == before


def test_a_transposed_convolution_is_left_alone() -> None:
    graph = captured(backbone(nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()))
    assert_kept(graph, fold_batch_norms)
    assert operators(graph)[NORM] == 2


def test_factors_are_worked_out_at_export() -> None:
    graph = captured(backbone(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()))
    assert operators(graph)[aten.rsqrt.default] == 2  # the norm's, and that of the gradient's root mean square
    assert_kept(graph, fold_constants)
    assert operators(graph)[aten.rsqrt.default] == 1


class WithoutWeights(nn.BatchNorm2d):
    """Normalise as affine=False does, by statistics that change the features."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.batch_norm(input, self.running_mean, self.running_var)


def test_a_norm_without_weights_is_folded() -> None:
    graph = captured(backbone(nn.Conv2d(3, 6, 3), WithoutWeights(6), nn.ReLU()))
    assert_kept(graph, fold_batch_norms)
    assert operators(graph)[NORM] == 0
