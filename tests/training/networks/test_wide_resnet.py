import pytest

from training.networks.backbones import build_backbone
from training.networks.errors import ArchitectureError


def test_wrn_28_10_has_the_published_size():
    # Zagoruyko and Komodakis, table 4: 36.5 million parameters
    parameters = sum(parameter.numel() for parameter in build_backbone("wrn-28-10", 10).parameters())
    assert round(parameters / 1e6, 1) == 36.5


@pytest.mark.parametrize("arch", ["wrn-11-2", "wrn-4-1", "wrn-16-0", "resnet", "wrn-16"])
def test_unknown_architectures_name_the_known_ones(arch):
    with pytest.raises(ArchitectureError, match=r"unknown architecture .*known are: wrn-D-K"):
        build_backbone(arch, 10)
