"""Compare `sgn classify` with its parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from benchmarks import classify
from sgn_serve.classify.chunks import ChunkClassifier
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import Graph
from sgn_serve.serving.engine_choice import EngineChoice, start_chosen
from sgn_serve.settings import Settings
from tests.sgn_serve.tiny_graph import save_tiny_graph


def test_both_ways_run_on_the_engine_that_was_chosen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[EngineChoice] = []
    used: list[EngineChoice | None] = []

    def recorded(graph: Graph, settings: Settings) -> tuple[Classifier, EngineChoice]:
        found = start_chosen(graph, settings)
        chosen.append(found[1])
        return found

    class Recorded(ChunkClassifier):
        def __enter__(self) -> Self:
            used.append(self.choice)
            return super().__enter__()

    monkeypatch.setattr(classify, "start_chosen", recorded)
    monkeypatch.setattr(classify, "ChunkClassifier", Recorded)
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"), decoders=1, threads=1)
    found = classify.small_pictures(settings, 2, 1, tmp_path)
    assert used == chosen
    assert set(found["rounds"]) == {"engine", "classify"}


def test_rounds_too_short_for_the_processors_clock_have_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "_cpu_seconds", lambda: 0.0)
    ways: dict[str, Callable[[], object]] = {"engine": dict, "classify": dict}
    found = classify._alternate(ways, 2, 3, "engine")
    assert found["cpu_ratio"] is None
    readings = iter([0, 2, 2, 3, 3, 5, 5, 5])  # the command takes no time in the second round
    monkeypatch.setattr(classify, "_cpu_seconds", lambda: float(next(readings)))
    found = classify._alternate(ways, 2, 2, "engine")
    assert found["cpu_ratio"] == 2.0
