import pytest

from training.networks.backbones import build_backbone
from training.networks.errors import ArchitectureError
from training.networks.names import check_spelling
from training.networks.wide_resnet import WideResNet


def test_wrn_28_10_has_the_published_size():
    # Zagoruyko and Komodakis, table 4: 36.5 million parameters
    parameters = sum(parameter.numel() for parameter in build_backbone("wrn-28-10", 10).parameters())
    assert round(parameters / 1e6, 1) == 36.5


@pytest.mark.parametrize("arch", ["wrn-11-2", "wrn-4-1", "wrn-16-0", "resnet", "wrn-16"])
def test_unknown_architectures_name_the_known_ones(arch):
    with pytest.raises(ArchitectureError, match=r"unknown architecture .*known are: wrn-D-K"):
        build_backbone(arch, 10)


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("wrn-10-1000000", r"7\.1e\+16 parameters are too many; at most 2\.1e\+09 are made"),
        (f"wrn-10-{2**70}", "parameters are too many"),
        ("wrn-10-" + "9" * 5000, "parameters are too many"),
        ("wrn-1000006-1", "up to 1000, the width at least 1"),
        ("wrn-" + "9" * 5000 + "-1", "up to 1000, the width at least 1"),
        ("wrn-12-2", "the depth must be 10, 16, 22"),
        ("wrn-16-0", "the width at least 1"),
    ],
)
def test_networks_that_cannot_be_made_are_refused_by_their_names(arch, reason):
    """The check before PyTorch is imported refuses them, and so does whoever builds them."""
    for refuse in (check_spelling, lambda name: build_backbone(name, 10)):
        with pytest.raises(ArchitectureError, match=f"unknown architecture .*{reason}.*; known are: wrn-D-K"):
            refuse(arch)


def test_the_largest_are_refused_by_their_numbers_too():
    with pytest.raises(ArchitectureError, match="wrn-1000-100 does not exist: 1\\.6e\\+11 parameters are too many"):
        WideResNet(1000, 100, num_classes=10)
    check_spelling("wrn-70-16")
    check_spelling("wrn-1000-1")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("wrn10-1", "wrn-10-1"),
        ("wrn-40x2", "wrn-40-2"),
        ("WRN_28_10", "wrn-28-10"),
        ("WideResNet-34-20", "wrn-34-20"),
        ("wide-resnet-16-8", "wrn-16-8"),
    ],
)
def test_another_spelling_of_a_wide_resnet_is_suggested(given, meant):
    with pytest.raises(ArchitectureError, match=f"'; did you mean {meant}\\? known are"):
        check_spelling(given)


@pytest.mark.parametrize("name", ["wide_resnet50_2", "wrn-11x2", "wrn", "resnetv2_50x1_bit"])
def test_what_means_no_wide_resnet_is_left_to_those_who_know_timms_names(name):
    check_spelling(name)
