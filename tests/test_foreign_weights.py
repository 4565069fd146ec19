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


def test_two_commands_from_a_robustbench_file_to_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = lively(WideReference(2, 1, 10))
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in reference.state_dict().items()}}, tmp_path / "x.pt"
    )
    checkpoint, graph = tmp_path / "x.safetensors", tmp_path / "x.onnx"
    assert convert(["--weights", str(tmp_path / "x.pt"), "--classes", "cifar10", "--out", str(checkpoint)]) == 0
    assert export(["--ckpt", str(checkpoint), "--onnx", str(graph)]) == 0

    settings = {"SGN_MODEL": str(graph), "SGN_SELF_GRADIENT": "false"}
    generator = np.random.default_rng(0)
    answered = set()
    with application_client(Settings.from_environment(settings)) as client:
        for _ in range(4):
            # Large patches, so that the pictures get different answers.
            patches = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            pixels = patches.repeat(8, axis=0).repeat(8, axis=1)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            answer = client.post("/classify", files={"image": buffer.getvalue()})
            assert answer.status_code == 200, answer.text
            with torch.no_grad():
                expected = reference(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0].softmax(0)
            best = int(expected.argmax())
            assert (answer.json()["index"], answer.json()["label"]) == (best, CLASSES[best])
            assert answer.json()["probability"] == pytest.approx(float(expected[best]), abs=1e-4)
            answered.add(best)
    assert len(answered) > 1, "the pictures are told apart"
