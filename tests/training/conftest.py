"""Small networks, and a small data set whose classes are easy to tell apart."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.local_ray import local_cluster
from tests.short_attacks import shorten
from tests.training.evaluate import fragile_task
from tests.training.reproduce import short_child
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork
from training.networks.wide_resnet import WideResNet

NetworkFactory = Callable[..., SelfGradientNetwork]

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 70), "red": (200, 50, 50)}


@pytest.fixture
def network() -> NetworkFactory:
    """Builds a WRN-10-1 in eval mode with lively weights, running statistics and block."""

    def build(
        gradient_scaling: str = "rms", scale: float = 1.0, block: bool = True, seed: int = 0
    ) -> SelfGradientNetwork:
        torch.manual_seed(seed)
        backbone = WideResNet(10, 1, num_classes=5)
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        made = SelfGradientBlock(scale=scale, gradient_scaling=gradient_scaling) if block else None  # type: ignore[arg-type]
        return SelfGradientNetwork(backbone, made).eval()

    return build


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 8x8 pictures, three classes told apart by colour under noise; 40 + 8 pictures a class."""
    root = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 40), ("test", 8)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                noise = torch.randint(-40, 40, (8, 8, 3), generator=generator)
                pixels = (torch.tensor(colour) + noise).clamp(0, 255).to(torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return root


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of the head of a Ray cluster, and the folder whose files end its workers: see those modules.

    Each module has one of its own: what one leaves in the store would count in the next.
    """
    folder = tmp_path_factory.mktemp("fragile")
    with local_cluster({fragile_task.FOLDER: str(folder), short_child.FOLDER: str(folder)}) as address:
        yield address, folder


@pytest.fixture(scope="module")
def short_attacks() -> Iterator[None]:
    """Validation, and a report's curve and slow-down, attack in one step: see tests/short_attacks.py."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr)
        yield


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of training runs, in a current folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"
