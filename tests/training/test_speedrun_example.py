"""examples/speedrun.py computes what the package computes, to the last bits."""

import importlib.util

import pytest
import torch
from PIL import Image

from training.config import TrainConfig
from training.data.batches import to_float
from training.data.loading import load_pictures, split_indices
from training.loop.trainer import Trainer
from training.options import configure, parse


@pytest.fixture
def speedrun(project_root):
    spec = importlib.util.spec_from_file_location("speedrun_example", project_root / "examples" / "speedrun.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_short_and_needs_pytorch_numpy_and_pillow_alone(project_root):
    lines = (project_root / "examples" / "speedrun.py").read_text().splitlines()
    assert len(lines) <= 300
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported <= {"copy", "sys", "time", "pathlib", "numpy", "torch", "PIL"}


def test_its_network_after_some_steps_is_the_packages(speedrun, picture_folder, tmp_path, monkeypatch):
    config = TrainConfig(
        "image-folder",
        arch="wrn-16-2",
        method="pgd",
        attack="n-fgsm",
        ema_decay=speedrun.AVERAGING,
        label_smoothing=speedrun.SMOOTHING,
        lr_schedule="cyclic",
        lr=speedrun.PEAK_LR,
        crop_padding=speedrun.PADDING,
        epochs=2,
        batch_size=32,
        validation_pictures=12,
        validation_attacked=3,
        precision="float32",
    )
    pictures = load_pictures("image-folder", picture_folder, "train", None)
    trainer = Trainer(config, pictures, tmp_path, torch.device("cpu"))
    assert list(trainer.train()) == [0, 1, 2]
    expected = trainer._evaluated_model()

    monkeypatch.setattr(speedrun, "BATCH", 32)
    monkeypatch.setattr(speedrun, "BF16", False)
    images, labels, names = speedrun.read_pictures(picture_folder / "train")
    assert torch.equal(images, pictures.images)
    assert tuple(names) == pictures.class_names
    rest, held_out = speedrun.split(labels, 12)
    assert [rest.tolist(), held_out.tolist()] == [
        indices.tolist() for indices in split_indices(pictures, 12, speedrun.SEED)
    ]
    network = speedrun.train(images[rest], labels[rest], len(names), epochs=2)
    own = network.state_dict()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(own[name.removeprefix("backbone.")], value, rtol=0, atol=1e-6, msg=name)
    shown = to_float(pictures.images[held_out])
    with torch.no_grad():
        torch.testing.assert_close(network(shown), expected.eval()(shown), rtol=0, atol=1e-5)


def test_pictures_that_fill_no_batch_are_refused(speedrun):
    images = torch.zeros(speedrun.BATCH - 1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(SystemExit, match="127 training pictures do not fill a batch of 128; lower BATCH"):
        speedrun.train(images, torch.zeros(len(images), dtype=torch.long), 2, epochs=1)


def test_files_that_are_no_pictures_are_left_out(speedrun, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "one.PNG")
        for other in (".DS_Store", "._one.png", "Thumbs.db", "notes.txt"):
            (tmp_path / name / other).write_bytes(b"no picture")
    images, labels, names = speedrun.read_pictures(tmp_path)
    assert (images.shape, labels.tolist(), names) == ((2, 3, 8, 8), [0, 1], ["cat", "dog"])


def test_the_command_that_it_names_has_its_constants(speedrun):
    words = speedrun.__doc__.split("python -m training ")[1].split("\n\n")[0].split()
    config = configure(parse([word for word in words if word != "\\"]), torch.device("cpu"))
    assert config.minutes == speedrun.MINUTES
    assert config.minutes_of == "core"
    assert config.arch == f"wrn-{speedrun.DEPTH}-{speedrun.WIDTH}"
    assert (config.lr, config.lr_warmup) == (speedrun.PEAK_LR, speedrun.WARMUP)
    assert (config.momentum, config.weight_decay) == (speedrun.MOMENTUM, speedrun.WEIGHT_DECAY)
    assert (config.epsilon, config.crop_padding) == (speedrun.EPS, speedrun.PADDING)
    assert (config.label_smoothing, config.ema_decay) == (speedrun.SMOOTHING, speedrun.AVERAGING)
    assert (config.batch_size or 128, config.seed) == (speedrun.BATCH, speedrun.SEED)
