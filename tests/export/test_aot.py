"""The compiled package. Compiling takes tens of seconds, so one small network has to do."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from export.aot import CompilerError, aot_run, require_compiler, save_aot
from export.capture import capture, passes_of
from export.pictures import structured_pictures
from export.rewrite import rewrite
from export.verify import PICTURES, GraphError, verify
from tests.export.networks import network_around


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_package_computes_what_the_network_computes(tmp_path: Path) -> None:
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    network = network_around(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)))
    passes, size = passes_of(network), (16, 16)
    graph = capture(passes, size)
    rewrite(graph)
    save_aot(graph, {"checkpoint": "abc"}, tmp_path / "model.pt2")

    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert verify(
        aot_run(tmp_path / "model.pt2", passes.output_names), network, structured_pictures(PICTURES, 3, size)
    ).passed
    assert torch._inductor.aoti_load_package(str(tmp_path / "model.pt2")).get_metadata()["checkpoint"] == "abc"
    with pytest.raises(GraphError, match="outputs are logits,plain_logits,self_gradient, expected plain_logits"):
        aot_run(tmp_path / "model.pt2", ("plain_logits",))


def test_no_compiler_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompilerError, match="there is no no-such-compiler; install one"):
        require_compiler()


def test_a_file_that_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"something else")
    with pytest.raises(GraphError, match="cannot be loaded"):
        aot_run(tmp_path / "model.pt2", ("logits",))
