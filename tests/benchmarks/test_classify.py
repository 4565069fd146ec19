"""Compare `sgn classify` with its parts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

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

    def recorded(graph: Graph, settings: Settings, *more: Any) -> tuple[Classifier, EngineChoice]:
        found = start_chosen(graph, settings, *more)
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
    assert set(found["rounds"]) == {"engine", "pillow", "plain", "classify"}
    (pillow,), (engine,) = ([one["pictures_a_second"] for one in found["rounds"][way]] for way in ("pillow", "engine"))
    assert found["most_ratio"] == pytest.approx(pillow / (pillow + engine), abs=1e-3)


@pytest.mark.thorough
def test_all_parts_are_measured_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGN_ENGINE", "onnxruntime")
    out = tmp_path / "classify.json"
    options = ["--small=2", "--large=1", "--links=9", "--rounds=1", f"--out={out}"]
    assert classify.main(options) == 0
    assert {"small", "large", "memory"} <= json.loads(out.read_text()).keys()

    def fails(links: int, folder: Path) -> dict[str, Any]:
        raise SystemExit("the command ended with status 1")

    monkeypatch.setattr(classify, "memory", fails)
    with pytest.raises(SystemExit):
        classify.main([*options, "--large=0"])
    assert "small" in json.loads(out.read_text()), "what was measured before is kept"


def test_rounds_too_short_for_the_processors_clock_have_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "_cpu_seconds", lambda: 0.0)
    ways: dict[str, Callable[[], object]] = {"engine": dict, "classify": dict}
    found = classify._alternate(ways, 2, 3, "engine")
    assert found["cpu_ratio"] is None
    readings = iter([0, 2, 2, 3, 3, 5, 5, 5])  # the command takes no time in the second round
    monkeypatch.setattr(classify, "_cpu_seconds", lambda: float(next(readings)))
    found = classify._alternate(ways, 2, 2, "engine")
    assert found["cpu_ratio"] == 2.0


def test_the_page_gets_medians_the_range_of_the_ratio_and_the_memory() -> None:
    def measured(*pairs: tuple[float, float], part: str, cpu: float | None) -> dict[str, Any]:
        rounds = {
            part: [{"pictures_a_second": alone} for alone, _ in pairs],
            "classify": [{"pictures_a_second": command} for _, command in pairs],
        }
        ratios = [command / alone for alone, command in pairs]
        return {
            "engine": "OpenVINO, bf16",
            "rounds": rounds,
            "ratios": ratios,
            "ratio": sorted(ratios)[1],
            "cpu_ratio": cpu,
        }

    result: dict[str, Any] = {
        "small": measured((100.0, 90.0), (200.0, 196.0), (300.0, 297.0), part="engine", cpu=0.9),
        "large": measured((10.0, 9.0), (10.0, 8.0), (10.0, 8.5), part="pillow", cpu=None),
        "memory": {
            "links": 200_000,
            "peak_mb_before_the_first_part": 380.0,
            "peak_mb_until_a_quarter": 400.4,
            "peak_mb_after": 390.0,
            "growth_mb": -10.4,
        },
        "processor": "Some(R) Processor (avx2, amx_bf16)",
        "cores": 2,
    }
    assert classify.shown({"small": result["small"]}) == "Not measured yet."
    told = classify.shown(result)
    assert "| 32x32 PNG, OpenVINO, bf16 | 200.0 | 196.0 | 0.98 | 0.90 to 0.99 | 0.90 |" in told
    assert "| 12-megapixel JPEG, Pillow | 10.0 | 8.5 | 0.85 | 0.80 to 0.90 | - |" in told
    assert "The aims were 0.95 for PNG files on the engine that is chosen and 0.8 for JPEG files. Both are" in told
    assert told.startswith("On 2 cores of Some(R) Processor, with AMX:\n\n| pictures")
    assert "plain program" not in told, "it was not measured"
    beside = {**result, "small": {**result["small"], "plain_ratio": 0.934}}
    assert "On OpenVINO, bf16, a plain program reached 0.93 of the engine alone.\nThis program reads" in classify.shown(
        beside
    )
    limited = {**result, "small": {**result["small"], "most_ratio": 0.926}}
    assert "On OpenVINO, bf16, no program that opens each file with Pillow can reach more than 0.93.\nThis limit" in (
        classify.shown(limited)
    )
    slow = {**result, "large": {**result["large"], "ratio": 0.7}}
    assert "0.8 for JPEG files. Missed: 0.8 for JPEG files.\n" in classify.shown(slow)
    assert told.endswith("Over 200,000 inputs the memory was 400 MB at most. After the first quarter it grew by 0 MB.")
