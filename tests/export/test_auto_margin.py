"""--auto-agreement: the threshold of self_gradient=auto is found on validation pictures and travels in the graph."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import export.auto_margin
from export.auto_margin import AutoRequest, auto_metadata, validation_pictures
from export.command import main, parse_arguments
from sgn_serve.common.graph_format import AUTO_KEY
from sgn_serve.inference.graph import read_graph
from tests.export.networks import checkpoint_info, randomise
from training.checkpoint import build_model, load_checkpoint, save_checkpoint
from training.evaluate.auto_margin import find_auto_margin
from training.networks.self_gradient import SelfGradientNetwork

VALIDATION = 12
EACH_CLASS = 8


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder for checkpoint_info, with a part to train on and no part to test on."""
    root = tmp_path_factory.mktemp("data")
    info = checkpoint_info()
    random = np.random.default_rng(0)
    for name in info.class_names:
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for index in range(EACH_CLASS):
            pixels = random.integers(0, 256, (*info.image_size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def divided(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as one that remembers how training divided its pictures."""
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    recipe = {"dataset": "image-folder", "image_size": None, "validation_pictures": VALIDATION}
    network, info = load_checkpoint(checkpoint)
    save_checkpoint(path, network.state_dict(), replace(info, recipe=recipe))
    return path


def test_pictures_are_those_that_training_held_out(divided: Path, data_root: Path) -> None:
    _, info = load_checkpoint(divided)
    pictures = validation_pictures(info, AutoRequest(0.9, data_root))
    assert len(pictures) == VALIDATION
    assert not (data_root / "test").exists(), "test pictures are not even looked for"


@pytest.mark.usefixtures("ready_made")
def test_graph_carries_a_threshold_that_gives_the_asked_agreement(
    divided: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.onnx"
    arguments = ["--ckpt", divided, "--onnx", target, "--auto-agreement", "0.9", "--data-root", data_root]
    assert main(list(map(str, arguments))) == 0
    assert "auto: second pass where the two likeliest classes are less than" in capsys.readouterr().out
    auto = read_graph(target).description.auto
    assert auto is not None
    assert auto["pictures"] == VALIDATION
    assert auto["split"] == "validation"
    assert auto["agreement"] >= auto["asked_agreement"] == 0.9
    model, info = load_checkpoint(divided)
    images = torch.from_numpy(validation_pictures(info, AutoRequest(0.9, data_root)).images.numpy()) / 255
    model.auto_margin = auto["margin"]
    with torch.no_grad():
        logits, chosen = model.auto_pass(images)
        same = (logits.argmax(dim=1) == model(images).argmax(dim=1)).float().mean().item()
    assert same == pytest.approx(auto["agreement"], abs=1e-4)
    assert chosen.float().mean().item() == pytest.approx(auto["second_pass"], abs=1e-4)


@pytest.mark.usefixtures("ready_made")
def test_threshold_of_the_checkpoint_is_the_graphs_without_the_option(checkpoint: Path, tmp_path: Path) -> None:
    with_threshold, target = tmp_path / "with-threshold.safetensors", tmp_path / "model.onnx"
    model, info = load_checkpoint(checkpoint)
    save_checkpoint(with_threshold, model.state_dict(), replace(info, auto_margin=0.25))
    assert main(["--ckpt", str(with_threshold), "--onnx", str(target)]) == 0
    assert read_graph(target).description.auto == {"margin": 0.25}
    assert AUTO_KEY not in {item.key for item in onnx.load(target).metadata_props}


def test_several_files_share_one_measurement(
    divided: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def counted(model: SelfGradientNetwork, images: torch.Tensor, agreement: float) -> object:
        measured.append(agreement)
        return find_auto_margin(model, images, agreement)

    monkeypatch.setattr(export.auto_margin, "find_auto_margin", counted)
    own = Path(shutil.copy(divided, tmp_path / "model.safetensors"))
    first, second = (auto_metadata(own, AutoRequest(0.5, data_root)) for _ in range(2))
    assert first == second
    assert measured == [0.5]
    assert json.loads(first[AUTO_KEY])["asked_agreement"] == 0.5
    model, info = load_checkpoint(own)
    save_checkpoint(own, model.state_dict(), replace(info, epsilon=0.5))
    auto_metadata(own, AutoRequest(0.5, data_root))
    assert measured == [0.5, 0.5], "another checkpoint in the same place"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    return capsys.readouterr().err


def test_what_the_option_needs(
    divided: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.onnx"
    asked = ("--ckpt", divided, "--onnx", target)
    assert "name the data set's folder with --data-root" in refusal(capsys, *asked, "--auto-agreement", "0.9")
    assert "--data-root is for --examples and --auto-agreement; leave it out" in refusal(
        capsys, *asked, "--data-root", data_root
    )
    assert "is not a share between 0 and 1" in refusal(capsys, *asked, "--auto-agreement", "99.8")
    plain, info = tmp_path / "plain.safetensors", checkpoint_info(block=False)
    save_checkpoint(plain, randomise(build_model(info)).state_dict(), info)
    auto = ("--auto-agreement", "0.9", "--data-root", data_root)
    assert "a network without a block" in refusal(capsys, "--ckpt", plain, "--onnx", target, *auto)
    assert not target.exists()


def test_one_folder_is_for_the_threshold_and_the_examples(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["--ckpt", "x.safetensors", "--onnx", "--auto-agreement", "0.9", "--examples", "3"]
    options = parse_arguments([*both, "--data-root", str(data_root), "--dataset", "image-folder"])
    assert (options.auto_agreement, options.examples) == (0.9, 3)
    assert (options.data_root, options.dataset) == (data_root, "image-folder")
    assert "name the data set's folder with --data-root" in refusal(capsys, *both)
