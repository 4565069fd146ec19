import json

import pytest

from benchmarks.training_cost import METHODS, main, summary


def test_ratios_are_taken_within_rounds():
    seconds = {name: [1.0, 1.0, 10.0] for name in METHODS}  # a round that was disturbed
    seconds["self-gradient, one step"] = [0.6, 0.5, 6.0]
    result = summary(seconds, batch_size=100)
    assert result["self_gradient_to_pgd10"] == pytest.approx(0.6)
    assert result["times_cheaper_than_pgd10"] == pytest.approx(1.67)
    assert result["methods"]["PGD-10"]["ratio_to_pgd10"] == 1
    assert result["methods"]["self-gradient, one step"]["ratio_quartiles"] == [0.55, 0.6]
    assert result["methods"]["standard"]["images_per_second"] == 100


def test_a_tiny_run_measures_every_method(tmp_path, capsys):
    output = tmp_path / "cost.json"
    options = ["--arch=wrn-10-1", "--image-size=8", "--batch-size=4", "--rounds=2", "--device=cpu"]
    assert main([*options, f"--out={output}"]) == 0
    result = json.loads(output.read_text())
    assert set(result["methods"]) == set(METHODS)
    # Twenty passes more than standard training's three, whatever the machine is doing.
    assert result["methods"]["standard"]["best_ms"] < result["methods"]["PGD-10"]["best_ms"]
    assert "| self-gradient, one step |" in capsys.readouterr().out
    assert main(["--rounds=1"]) == 2
    assert main([*options, "--arch=vgg", f"--out={output}"]) == 2
    assert "known are: wrn-D-K" in capsys.readouterr().err
