"""The benchmark of judging on Ray: what each way runs, what becomes of the times, and that a run goes on."""

import importlib.util
import json
import sys

import pytest
import torch
from PIL import Image

from benchmarks import judging_on_ray
from benchmarks.errors import BenchmarkError
from benchmarks.judging_on_ray import WAYS, command_of, judged, main, plain_network, seconds_of, summary
from tests.training.checkpoints import save_untrained, tiny_info
from training.checkpoint import load_checkpoint
from training.evaluate.command import main as evaluate

TIMES = {"one process": 100.0, "one worker": 104.0, "two workers": 50.0, "two processes": 49.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image folder of few pictures."""
    root = tmp_path_factory.mktemp("pictures")
    for value, name in enumerate(tiny_info().class_names):
        (root / "test" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8), (80 * value, 40 * index, 0)).save(root / "test" / name / f"{index}.png")
    return root


@pytest.fixture
def without_work(monkeypatch):
    """The command with made-up times; the ways in the order in which they were measured."""
    measured = []

    def judged(options, way, checkpoint, folder) -> float:
        assert checkpoint.is_file()
        measured.append(way)
        answers = "11" if len(measured) < 6 else "10"
        (folder / f"{way}.json").write_text(json.dumps({"rows": [{"id": {"family": "fgsm"}, "withstood": answers}]}))
        return TIMES[way]

    monkeypatch.setattr(judging_on_ray, "judged", judged)
    monkeypatch.setattr(judging_on_ray, "commit", lambda: "abc")  # others may commit while the tests run
    return measured


def test_the_ways_take_turns_and_a_run_goes_on(without_work, tmp_path, capsys):
    argv = [f"--data-root={tmp_path}", f"--out={tmp_path / 'x.json'}"]
    assert main([*argv, "--rounds=1"]) == 0
    assert without_work == list(WAYS)
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["ratios"] == {
        "speed-up": 2.0,
        "speed-up over one worker": 2.08,
        "speed-up of plain processes": 2.041,
        "overhead of one worker": 0.04,
    }
    assert result["answers"].keys() == WAYS.keys() - {"two processes"}
    assert result["same_answers"] is True
    told = judging_on_ray.shown(result)
    assert "Two workers were 2.00 times as fast as one process, and 2.08 times as fast as one worker." in told
    assert "The aim of 1.8 is reached." in told
    assert "One worker took 4.0 % more time" in told
    assert told.startswith("On 200 pictures in batches of 10, by `quick`, `apgd-ce`, `apgd-t`:")
    assert told.endswith("Ray gave each picture the same answer.")
    faster = {**result, "same_answers": False, "ratios": {**result["ratios"], "overhead of one worker": -0.01}}
    assert "One worker took 1.0 % less time" in judging_on_ray.shown(faster)
    slower = {**result, "ratios": {**result["ratios"], "speed-up": 1.79}}
    assert "The aim of 1.8 is missed." in judging_on_ray.shown(slower)
    assert "Ray did not give each picture the same answer" in judging_on_ray.shown(faster)
    assert judging_on_ray.shown({**result, "ratios": {}}) == "Not measured yet."
    assert result["command"] == f"python -m benchmarks.judging_on_ray {' '.join([*argv, '--rounds=1'])}"
    assert "| Ray, two workers" in capsys.readouterr().out
    assert main([*argv, "--rounds=2"]) == 0
    assert without_work == list(WAYS) * 2
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["seconds"]["two workers"] == [50.0, 50.0]
    assert len(set(result["answers"]["two workers"])) == 2, "the made-up answers of the last ways are others"
    assert result["same_answers"] is False
    assert main([*argv, "--rounds=2"]) == 0
    assert without_work == list(WAYS) * 2, "nothing was missing"
    assert main([*argv, "--pictures=7"]) == 2
    assert "x.json differs in setting; pass another --out" in capsys.readouterr().err


def test_the_ratios_are_medians_over_whole_rounds():
    seconds = {way: [time, 2 * time, 3 * time] for way, time in TIMES.items()}
    seconds["one process"] = [100.0, 220.0, 300.0, 1.0]
    assert summary(seconds)["speed-up"] == 2.0
    assert summary({**seconds, "two workers": []}) == {}


def test_the_network_is_the_bundled_one_without_its_block(tmp_path):
    network, info = load_checkpoint(plain_network(tmp_path))
    assert network.block is None
    assert info.block is None
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_the_command_lines_are_those_of_the_judge(folder, tmp_path):
    checkpoint = save_untrained(tmp_path, tiny_info(method="pgd", block=None))
    line = [f"--data-root={folder}", "--pictures=6", "--batch=3", "--attacks", "fgsm"]
    options = judging_on_ray.parse(line)
    python, *rest = command_of(options, checkpoint, tmp_path / "report.json")
    assert [python, *rest[:2]] == [sys.executable, "-m", "training.evaluate"]
    assert rest[rest.index("--threads") + 1] == "1"
    assert rest[rest.index("--pictures") + 1] == "6"
    assert evaluate(rest[2:]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["id"]["family"] for row in report["rows"]] == ["clean", "fgsm"]
    with pytest.raises(BenchmarkError, match=r"failed with 2: error: .*none.safetensors: no such file"):
        seconds_of([command_of(options, tmp_path / "none.safetensors", tmp_path / "none.json")])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_real_run(folder, tmp_path):
    checkpoint = save_untrained(tmp_path, tiny_info(method="pgd", block=None))
    options = judging_on_ray.parse([f"--data-root={folder}", "--pictures=6", "--batch=3", "--attacks", "fgsm"])
    assert all(judged(options, way, checkpoint, tmp_path) > 0 for way in WAYS)
    digests = {judging_on_ray.digest_of(tmp_path / f"{way}.json") for way in WAYS if way != "two processes"}
    assert len(digests) == 1
