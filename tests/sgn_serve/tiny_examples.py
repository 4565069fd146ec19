"""Write the files that go with a tiny graph: example pictures with perturbations, and measured figures."""

import base64
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgn_serve.common.graph_format import EXAMPLES_FORMAT, FIGURES_FORMAT, examples_path, figures_path
from sgn_serve.records import Examples
from tests.sgn_serve.tiny_graph import CLASS_NAMES, SHA256

STEPS = 6
_FAINT = 4
"""Difference of the largest channel of an example and the next one: less than the perturbation changes."""


def example_pictures(image_size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one picture of each class that the tiny graph is right about, and perturbed ones that it is wrong about.

    Args:
        image_size: (height, width) in pixels.

    Returns:
        Both (3, H, W, 3).
    """
    clean = np.full((len(CLASS_NAMES), *image_size, 3), 100, np.uint8)
    perturbed = clean.copy()
    for label in range(len(CLASS_NAMES)):
        clean[label, ..., label] += _FAINT
        perturbed[label, ..., label] = 100 + _FAINT - STEPS
        perturbed[label, ..., (label + 1) % 3] = 100 + STEPS
    return clean, perturbed


def save_tiny_examples(graph: Path, image_size: tuple[int, int], titles: Mapping[str, str]) -> None:
    """Write example pictures beside a tiny graph.

    Args:
        graph: The .onnx file.
        image_size: (height, width) in pixels.
        titles: How each attacked network is called, by its name.
    """
    clean, perturbed = example_pictures(image_size)
    attack = {"name": "PGD-7", "steps": 7}
    examples = {
        "format": EXAMPLES_FORMAT,
        "checkpoint_sha256": SHA256,
        "source": "plain colours",
        "norm": "L-inf",
        "eps": STEPS / 255,
        "steps": STEPS,
        "seed": 0,
        "class_names": list(CLASS_NAMES),
        "height": image_size[0],
        "width": image_size[1],
        "models": {
            key: {
                "title": title,
                "served": True,
                "block": key == "block-on",
                "checkpoint_sha256": SHA256,
                "architecture": "tiny",
                "method": "none",
                "attacks": [attack],
            }
            for key, title in titles.items()
        },
        "right_of_all": None,
        "examples": [
            {
                "name": name,
                "label": label,
                "png": _base64(clean[label]),
                "tampered": {
                    key: {
                        "png": _base64(perturbed[label]),
                        "attack": "PGD-7",
                        "fooled": True,
                        "answers": {},
                        "recorded": {},
                    }
                    for key in titles
                },
            }
            for label, name in enumerate(CLASS_NAMES)
        ],
        "command": "none",
        "date": "2026-01-02",
        "git_commit": "none",
        "versions": {},
    }
    Examples.model_validate(examples)
    examples_path(graph).write_text(json.dumps(examples))


def save_tiny_figures(graph: Path) -> None:
    """Write measured figures beside a tiny graph, with a block or without."""
    states = ("block on", "block off")
    shares = {"clean": (0.911, 0.922), "FGSM": (0.633, 0.644)}
    figures = {
        "format": FIGURES_FORMAT,
        "setting": {
            "checkpoint_sha256": SHA256,
            "data": "painted walls",
            "split": "validation",
            "pictures": 777,
            "norm": "L-inf",
            "eps": STEPS / 255,
            "restarts": 1,
            "seed": 3,
        },
        "about": {"command": "none", "date": "2026-01-02"},
        "headline": {"lowest accuracy per picture": 0.615},
        "lowest": {"block on": 0.615, "block off": 0.626},
        "auto_attack": {},
        "rows": [
            {"id": {"state": state, "family": attack.lower()}, "title": attack, "accuracy": share}
            for attack, both in shares.items()
            for state, share in zip(states, both, strict=True)
        ],
        "checklist": [],
    }
    figures_path(graph).write_text(json.dumps(figures))


def _base64(pixels: NDArray[np.uint8]) -> str:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
