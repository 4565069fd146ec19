"""Checkpoint to answer: the example pictures, sent to a real server, come back as PyTorch classifies them."""

import csv
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import Tensor

import export.command
from release import own_folder
from sgn_serve.pictures.files import read_size
from sgn_serve.settings import BUNDLED_MODEL, Settings
from tests.needs_timm import backbones
from tests.sgn_serve.server import Server, application_client
from tests.training.checkpoints import save_untrained, tiny_info
from training.attacks.rows import RowId
from training.checkpoint import load_checkpoint

TOLERANCE = 1e-4
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Examples:
    """paths; images: (100, 3, 32, 32) in [0, 1]; labels: (100,)"""

    paths: list[Path]
    images: Tensor
    labels: Tensor


@pytest.fixture(scope="module")
def examples(project_root: Path) -> Examples:
    folder = project_root / "examples"
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert CLASSES[int(row["index"])] == row["label"] == row["filename"].rsplit("_", 1)[0]
    paths = [folder / row["filename"] for row in rows]
    assert sorted(paths) == sorted(folder.glob("*.png"))
    assert len(paths) == 100
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return Examples(paths, images, torch.tensor([int(row["index"]) for row in rows]))


def served_answers(client: httpx.Client | TestClient, examples: Examples, **fields: str) -> list[dict[str, Any]]:
    answers = []
    for path in examples.paths:
        response = client.post("/classify", files={"image": path.read_bytes()}, data={"top_k": "10", **fields})
        assert response.status_code == 200, response.text
        answers.append(response.json())
    return answers


def check_answers(client: httpx.Client | TestClient, checkpoint: Path, examples: Examples) -> list[dict[str, Any]]:
    """Compare every class probability of every picture with PyTorch's, and return the answers with the block on."""
    network, info = load_checkpoint(checkpoint)
    with torch.no_grad():
        on = network(examples.images)
        off = network.plain_logits(examples.images)
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    for self_gradient, logits in ((False, off), (True, on)):
        answers = served_answers(client, examples, self_gradient=str(self_gradient).lower())
        expected = logits.double().softmax(dim=1)
        served = torch.zeros_like(expected)
        for row, answer in enumerate(answers):
            for entry in answer["top_k"]:
                assert entry["label"] == info.class_names[entry["index"]]
                served[row, entry["index"]] = entry["probability"]
        assert [answer["index"] for answer in answers] == expected.argmax(1).tolist()
        assert [answer["label"] for answer in answers] == [info.class_names[index] for index in expected.argmax(1)]
        torch.testing.assert_close(served, expected, rtol=0, atol=TOLERANCE)
        assert {answer["self_gradient"] for answer in answers} == {self_gradient}
        assert {answer["model"] for answer in answers} == {sha256}
        if self_gradient:
            check_plain_beside_corrected(answers, off, expected)
    return answers


def check_plain_beside_corrected(answers: list[dict[str, Any]], plain_logits: Tensor, corrected: Tensor) -> None:
    plain = plain_logits.double().softmax(dim=1)
    middle = (plain + corrected) / 2
    bits = torch.stack([(p * (p / middle).log2()).sum(1) for p in (plain, corrected)]).mean(0)
    for row, answer in enumerate(answers):
        assert answer["plain"]["index"] == plain[row].argmax()
        assert answer["plain"]["probability"] == pytest.approx(plain[row].max().item(), abs=TOLERANCE)
        assert answer["disagreement"] == pytest.approx(bits[row].item(), abs=TOLERANCE)


@pytest.fixture(scope="module")
def untrained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights: enough to go the whole way, whatever is bundled."""
    info = tiny_info(class_names=CLASSES, image_size=(32, 32))
    return save_untrained(tmp_path_factory.mktemp("checkpoint"), info)


@pytest.fixture(scope="module")
def untrained_client(untrained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    graph = tmp_path_factory.mktemp("graph") / "model.onnx"
    assert export.command.main(["--ckpt", str(untrained_checkpoint), "--onnx", str(graph)]) == 0
    with application_client(Settings(model_path=graph)) as client:
        yield client


def test_export_then_serve_then_classify(
    untrained_client: TestClient, untrained_checkpoint: Path, examples: Examples
) -> None:
    check_answers(untrained_client, untrained_checkpoint, examples)


@pytest.fixture(scope="module")
def bundled_client(bundled_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=bundled_server.url, timeout=60) as client:
        yield client


def test_the_bundled_model_answers_as_its_checkpoint_does(bundled_client: httpx.Client, examples: Examples) -> None:
    """It knows the example pictures too."""
    answers = check_answers(bundled_client, BUNDLED_MODEL.with_suffix(".safetensors"), examples)
    right = torch.tensor([answer["index"] for answer in answers]) == examples.labels
    assert right.float().mean() >= 0.5, "ten classes: chance is 0.1"


@pytest.mark.thorough
@pytest.mark.parametrize("arch", backbones("timm:test_resnet"))
def test_from_class_folders_of_mixed_sizes_to_answers(
    arch: str, project_root: Path, tmp_path: Path, warm_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tutorial's way in small: nothing but class folders, then `sgn train`, `judge`, `export` and `serve`.

    The training on the photos starts as a user's does, the other commands without the imports of each.
    """
    as_it_is = own_folder.run_sgn

    def run_sgn(work: Path, *arguments: str) -> None:
        if "--pretrained" in arguments:
            as_it_is(work, *arguments)
        else:
            environment = os.environ | {"PYTHONPATH": str(project_root)}
            subprocess.run([warm_python, "-m", "sgn", *arguments], cwd=work, env=environment, check=True)

    monkeypatch.setattr(own_folder, "run_sgn", run_sgn)
    others = own_folder.OTHERS[:2]
    for name in (*own_folder.CLASSES, *others):
        (tmp_path / "cifar" / "train" / name).mkdir(parents=True)
        for path in (project_root / "examples").glob(f"{name}_*.png"):
            shutil.copy(path, tmp_path / "cifar" / "train" / name)
    own_folder.make_photos(tmp_path / "cifar", tmp_path / "others", others, per_class=10)
    own_folder.make_photos(tmp_path / "cifar", tmp_path / "photos", own_folder.CLASSES, per_class=10)
    sizes = {read_size(path) for path in (tmp_path / "photos").rglob("*.jpg")}
    assert len(sizes) > 20
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == sorted(own_folder.CLASSES)
    size = own_folder.Size(arch=arch, image_size=32, start_epochs=1, epochs=1, batch_size=8, attacks="pgd-1", threads=1)
    own_folder.make_start(tmp_path, size)
    result = own_folder.go(tmp_path, size, "whole")
    assert [step["name"] for step in result["steps"]] == ["train", "judge", "export", "serve and classify"]
    # A fifth of each class is unseen: judged by PyTorch, then classified by the service, as right as each other.
    assert result["judged_pictures"] == result["served"]["pictures"] == 6
    left = {RowId.from_dict(row["id"]): row["accuracy"] for row in result["rows"]}
    assert result["served"]["right"] == round(6 * left[RowId("block on", "clean")])
    assert result["lowest"] <= min(value for row, value in left.items() if row.state == "block on")
    # The other way differs by an option of training, which tests/training/loop/test_frozen_backbone.py tries.
    whole, frozen = (own_folder.commands(size, way)["train"] for way in own_folder.WAYS)
    assert set(frozen) - set(whole) == {"--freeze-backbone", "frozen"}
    ways = {"whole": {**result, "lowest": 0.5}, "frozen": {**result, "lowest": 0.25, "steps": result["steps"][:1] * 4}}
    assert "| **lowest, per picture** | **50.0** | **25.0** |" in own_folder.figures_table({"ways": ways})
    times = [f"{step['seconds'] / 60:.1f} | {step['core_seconds'] / 60:.1f}" for step in result["steps"][:2]]
    assert f"| judge | {times[1]} | {times[0]} |" in own_folder.steps_table({"ways": ways})


def test_too_few_pictures_to_make_photos_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [f"--data-root={tmp_path}", f"--work={tmp_path / 'work'}"]
    assert own_folder.main(argv) == 2
    assert "train/airplane: 0 pictures, but 60 are wanted" in capsys.readouterr().err
