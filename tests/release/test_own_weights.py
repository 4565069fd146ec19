"""The way from a file of RobustBench's format to answers, in small, and the file itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from release import own_folder, own_weights
from release.own_folder import OwnFolderError
from release.own_weights import EXAMPLES, GRAPH, WEIGHTS, RobustBenchWideResNet, go, random_network, steps_table
from sgn.command import main
from sgn_serve.settings import Settings
from tests.sgn_serve.server import application_client
from tests.training.foreign.references import WideReference


def test_its_network_is_the_one_that_the_tests_compare_with() -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, 32, 32)
    network = random_network(images, 10, 2)
    reference = WideReference(1, 2, 10).eval()
    reference.load_state_dict(network.state_dict())
    with torch.no_grad():
        logits = network(images)
        torch.testing.assert_close(logits, reference(images), rtol=1e-4, atol=1e-4)
    assert len(set(logits.argmax(1).tolist())) > 1, "the pictures are told apart"


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands and the service run without the imports of each."""

    def run_sgn(work: Path, *arguments: str) -> None:
        monkeypatch.chdir(work)
        if main(list(arguments)):
            raise OwnFolderError("failed")

    @contextmanager
    def service(work: Path, model: str) -> Iterator[Any]:
        with application_client(Settings.from_environment({"SGN_MODEL": str(work / model)})) as client:
            yield client

    monkeypatch.setattr(own_folder, "run_sgn", run_sgn)
    monkeypatch.setattr(own_folder, "service", service)


@pytest.mark.usefixtures("in_this_process")
def test_every_answer_is_that_of_the_module_that_the_file_was_written_from(tmp_path: Path) -> None:
    pictures = sorted(EXAMPLES.glob("*.png"))[::20]
    result = go(tmp_path, pictures, (10, 1))
    assert [step["name"] for step in result["steps"]] == ["convert", "export", "serve and classify"]
    assert result["same_class"] == result["same_probabilities"] == result["pictures"] == len(pictures) == 5
    assert result["classes_answered"] > 1
    assert result["largest_difference"] < own_weights.SAME
    assert result["self_gradient"] == [False]
    assert result["megabytes"].keys() == {WEIGHTS, "model.safetensors", GRAPH}
    assert steps_table(result).count("\n") == 4
    state = torch.load(tmp_path / WEIGHTS, weights_only=True)["state_dict"]
    assert state.keys() == {f"module.{name}" for name in RobustBenchWideResNet(10, 1).state_dict()}
