"""The content of a file of example pictures for the tiny graph."""

import base64
from io import BytesIO
from typing import Any

from PIL import Image

from sgn_serve.common.graph_format import EXAMPLES_FORMAT
from tests.sgn_serve.tiny_graph import CLASS_NAMES, SHA256


def png(colour: tuple[int, int, int] = (200, 10, 10)) -> str:
    """Return a picture of one colour, a PNG file in base64."""
    file = BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def sample_examples(count: int = 2, **others: Any) -> dict[str, Any]:
    """Return a file's content with so many examples. others: fields that differ."""
    answers = {"block off": [{"label": 0, "probability": 0.9}, {"label": 1, "probability": 0.6}]}
    tampered = {"png": png((10, 200, 10)), "attack": "PGD-20", "fooled": True, "answers": answers, "recorded": {}}
    model = {
        "title": "this model",
        "served": True,
        "block": False,
        "checkpoint_sha256": SHA256,
        "architecture": "tiny",
        "method": "standard",
        "attacks": [{"name": "PGD-20", "steps": 20}],
    }
    return {
        "format": EXAMPLES_FORMAT,
        "checkpoint_sha256": SHA256,
        "source": "made up",
        "norm": "L-inf",
        "eps": 1 / 255,
        "steps": 1,
        "seed": 0,
        "class_names": list(CLASS_NAMES),
        "height": 8,
        "width": 8,
        "models": {"block-off": model},
        "right_of_all": None,
        "examples": [
            {"name": f"red {number}", "label": 0, "png": png(), "tampered": {"block-off": tampered}}
            for number in range(count)
        ],
        "command": "python -m export",
        "date": "2026-11-26",
        "git_commit": "abc",
        "versions": {},
        **others,
    }
