"""A tiny network, and a command that classifies with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgn_serve.classify.command import main
from tests.sgn_serve.tiny_graph import save_tiny_graph

Classify = Callable[..., int]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_graph(tmp_path_factory.mktemp("tiny") / "tiny.onnx")


@pytest.fixture
def classify(tiny: Path) -> Classify:
    """Runs the command with the tiny network, and returns its status."""

    def run(*arguments: Any) -> int:
        return main(
            ["--model", str(tiny), "--decoders", "1", "--threads", "1", "--chunk", "6", *map(str, arguments)],
            "sgn classify",
        )

    return run


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
