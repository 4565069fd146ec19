"""The image size and the batch of a folder, where nobody gives them."""

import pytest
import torch

from tests.needs_timm import NEEDS_TIMM
from training.config import TrainConfig
from training.data.picture_set import PictureSet
from training.fitting import with_batch_size, with_image_size
from training.networks.backbones import usual_image_size

MIXED = [(300, 400), (90, 200), (500, 120)]


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(16, 16)] * 3, None),
        ([(300, 200)] * 3, None),  # they keep their size, as ever
        ([(3000, 4000)] * 3, 128),
        (MIXED, 96),  # the middle one of 300, 90 and 120
        ([(40, 50), (20, 20), (63, 99)], 32),
        ([(8, 9), (10, 10)], 32),
        ([(900, 1000), (800, 800)], 128),
    ],
)
def test_the_default_follows_from_the_pictures(sizes, side):
    config, line = with_image_size(TrainConfig(arch="wrn-10-1"), sizes, None)
    assert config.image_size == side
    assert (f"resized to {side}x{side}" in line) == (side is not None)
    assert "--image-size PIXELS" in line or side is None


def test_a_given_size_stays_and_nothing_is_said():
    config = TrainConfig(arch="wrn-10-1", image_size=17)
    assert with_image_size(config, MIXED, 64) == (config, "")


def test_the_network_that_training_starts_from_decides_before_the_backbone():
    config = TrainConfig(arch="wrn-10-1", init_from="a/model.safetensors")
    config, line = with_image_size(config, MIXED, 48)
    assert config.image_size == 48
    assert line.startswith("pictures of 3 sizes are resized to 48x48, as for a/model.safetensors; ")


@NEEDS_TIMM
def test_a_timm_network_says_its_own_size():
    assert usual_image_size("timm:resnet18") == 224
    assert usual_image_size("timm:inception_v3") == 299
    assert usual_image_size("wrn-10-1") is None
    config = TrainConfig(arch="timm:resnet18")
    chosen, line = with_image_size(config, MIXED, None)
    assert chosen.image_size == 224
    assert "which timm:resnet18 is made for" in line
    assert with_image_size(config, [(3000, 4000)] * 2, None)[0].image_size == 224
    assert with_image_size(config, [(32, 32)] * 2, None) == (config, ""), "small pictures are not enlarged"


@pytest.mark.parametrize(("each", "processes", "size"), [(40, 1, 16), (40, 3, 15), (400, 1, 128), (3, 2, 2)])
def test_an_epoch_of_few_pictures_has_some_steps(each, processes, size):
    labels = torch.arange(3).repeat_interleave(each)
    pictures = PictureSet(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels, ("a", "b", "c"))
    config, line = with_batch_size(TrainConfig(arch="wrn-10-1"), pictures, processes)
    assert config.batch_size == size
    assert (f"a batch has {size} of them" in line) == (size < 128)
    assert with_batch_size(config, pictures, processes) == (config, "")
