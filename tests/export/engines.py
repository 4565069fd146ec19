"""One network in the files of every engine, for tests that compare their answers."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.capture.graph import capture
from export.formats.table import ONNX, OPENVINO, TORCHSCRIPT, Format
from export.network_passes import passes_of
from export.rewrite import rewrite
from tests.export.networks import network_around

IMAGE_SIZE = (16, 16)
OPENVINO_FORMAT = pytest.param(
    OPENVINO, marks=pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs OpenVINO")
)
FORMATS = (ONNX, TORCHSCRIPT, OPENVINO_FORMAT)
"""Formats as parameters of a test."""


class InEveryEngine:
    """A network around a backbone: its passes, its rewritten graph, and a file of each format, written once."""

    def __init__(self, backbone: nn.Module, folder: Path):
        self.passes = passes_of(network_around(backbone))
        self.graph = capture(self.passes, IMAGE_SIZE)
        rewrite(self.graph)
        self._folder = folder

    def file(self, file_format: Format) -> Path:
        path = self._folder / file_format.file_name
        if not path.exists():
            file_format.save(copy.deepcopy(self.graph), {}, path)
        return path

    def outputs(self, file_format: Format, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return PyTorch's outputs and the exported graph's."""
        with torch.no_grad():
            expected = dict(zip(self.passes.output_names, self.passes(images), strict=True))
        return expected, dict(file_format.runner(self.file(file_format), self.passes.output_names)(images))
