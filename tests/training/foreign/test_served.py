"""A file of RobustBench's names becomes a served graph by two commands, and answers as its own module does."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.command import main as export
from sgn_serve.settings import Settings
from tests.sgn_serve.server import application_client
from tests.training.foreign.references import WideReference, lively
from training.convert.command import main as convert

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def patchwork(count: int) -> np.ndarray:
    """Returns pictures of large patches, uint8 (N, 32, 32, 3)."""
    patches = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return patches.repeat(8, axis=1).repeat(8, axis=2)


def test_two_commands_from_a_robustbench_file_to_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = WideReference(2, 1, 10)
    lively(reference)
    pictures = patchwork(6)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        reference.fc.bias.sub_(reference(images).mean(0))  # untrained weights would give every picture the same answer
        expected = reference(images).softmax(1)
    best = expected.argmax(1).tolist()
    assert len(set(best)) > 1, "the pictures are told apart"

    state = {f"module.{name}": value for name, value in reference.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    checkpoint, graph = tmp_path / "x.safetensors", tmp_path / "x.onnx"
    assert convert(["--weights", str(tmp_path / "x.pt"), "--classes", "cifar10", "--out", str(checkpoint)]) == 0
    assert export(["--ckpt", str(checkpoint), "--onnx", str(graph)]) == 0

    with application_client(Settings.from_environment({"SGN_MODEL": str(graph)})) as client:
        for pixels, index, probabilities in zip(pictures, best, expected.tolist(), strict=True):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            answer = client.post("/classify", files={"image": buffer.getvalue()})
            assert answer.status_code == 200, answer.text
            assert answer.json()["self_gradient"] is False, "by default, for there is no block"
            assert (answer.json()["index"], answer.json()["label"]) == (index, CLASSES[index])
            assert answer.json()["probability"] == pytest.approx(probabilities[index], abs=1e-4)
