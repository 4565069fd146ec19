"""Compare `sgn classify` with its parts."""

from pathlib import Path

import pytest

from benchmarks import classify
from sgn_serve.classify.chunks import ChunkClassifier
from sgn_serve.serving.engine_choice import EngineChoice
from sgn_serve.settings import Settings
from tests.sgn_serve.tiny_graph import save_tiny_graph


def test_both_ways_run_on_the_engine_that_was_chosen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, used = [], []

    def start_chosen(*arguments: object) -> tuple[object, EngineChoice]:
        found = start(*arguments)
        chosen.append(found[1])
        return found

    class Recorded(ChunkClassifier):
        def __enter__(self) -> ChunkClassifier:
            used.append(self.choice)
            return super().__enter__()

    start = classify.start_chosen
    monkeypatch.setattr(classify, "start_chosen", start_chosen)
    monkeypatch.setattr(classify, "ChunkClassifier", Recorded)
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"), decoders=1, threads=1)
    found = classify.small_pictures(settings, 2, 1, tmp_path)
    assert used == chosen
    assert set(found["rounds"]) == {"engine", "classify"}
