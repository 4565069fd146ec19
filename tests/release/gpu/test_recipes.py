"""The stages that run only where they are named: a ResNet-18, and recipes side by side."""

import json
from pathlib import Path

import pytest

from release.gpu import pictures, recipes
from release.gpu.command import main
from release.gpu.record import NAME
from release.gpu.stage import Skip
from release.recipes import COSTS, RECIPES
from tests.release.gpu.rehearsals import run_of, settings_in
from training.attacks.rows import AUTO_ATTACK
from training.checkpoint import load_checkpoint


@pytest.mark.thorough
@pytest.mark.usefixtures("warm_stages")
def test_a_network_is_trained_for_its_minutes_and_attacked_by_all_of_auto_attack(tmp_path: Path) -> None:
    stages = ["pictures", "train-resnet-18", "recipes", "attacks"]
    named = ["--recipes", "prior-ema", "uniform-ema"]
    assert main(["--rehearse", "--out", str(tmp_path), "--stages", *stages, *named]) == 0
    found = json.loads((tmp_path / NAME).read_text())["stages"]
    assert list(found) == stages
    assert all(stage["status"] == "done" for stage in found.values())
    trained = found["train-resnet-18"]["figures"]
    assert trained["epochs"] >= 1
    assert (tmp_path / trained["checkpoint"]).is_file()
    assert trained["config"]["weight_perturbation"] > 0
    attacked = found["attacks"]["figures"]["rows"]["resnet-18"]
    assert [row["id"]["family"] for row in attacked] == ["clean", *AUTO_ATTACK]
    rows = [row["accuracy"] for row in attacked]
    assert rows == sorted(rows, reverse=True)
    assert all(row["pictures"] == 10 for row in attacked)
    compared = found["recipes"]["figures"]["recipes"]
    assert list(compared) == ["prior-ema", "uniform-ema"]
    for name, recipe in compared.items():
        _, info = load_checkpoint(tmp_path / recipe["checkpoint"])
        assert info.recipe["attack_start"] == ("prior" if name == "prior-ema" else "uniform")
        assert recipe["epochs_done"] == recipe["epochs"] == 2
        assert {len(row["right"]) for row in recipe["rows"]} == {recipe["pictures"]} == {10}
        clean, *_, last = recipe["rows"]
        assert (clean["id"]["family"], last["id"]["family"]) == ("clean", "apgd-t")
        assert last["right"].count("1") / 10 == last["accuracy"] == recipe["lowest"] <= clean["accuracy"]


def test_the_compared_recipes_are_those_of_speedrun() -> None:
    assert set(COSTS) <= set(RECIPES)
    assert min(COSTS.values()) == COSTS["uniform-ema"] == 1


def test_without_a_gpu_or_pictures_recipes_are_skipped(tmp_path: Path) -> None:
    run = run_of("recipes", settings_in(tmp_path))
    with pytest.raises(Skip, match="there are no pictures: see stage pictures"):
        recipes.work(run)
    with pytest.raises(Skip, match="no such recipe: fgsm"):
        recipes.work(run_of("recipes/fgsm", settings_in(tmp_path)))


@pytest.mark.usefixtures("warm_stages")
def test_recipes_that_all_fail_are_a_failed_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(tmp_path)
    settings.save(run_of("pictures", settings).work / "settings.json")
    pictures.prepare(run_of("pictures", settings))
    monkeypatch.setattr(recipes, "COSTS", {"unknown": 1.0})  # which the recipe's own process does not know
    run = run_of("recipes", settings)
    with pytest.raises(SystemExit, match=r"no recipe was trained and judged: unknown: exit status 75; see log\.txt"):
        recipes.work(run)
    assert run.figures_of("recipes")["recipes"] == {"unknown": {"problem": "exit status 75; see log.txt"}}
