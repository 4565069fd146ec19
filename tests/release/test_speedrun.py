"""The comparison of recipes, in miniature: it trains, judges, saves as it goes and goes on."""

import json

import pytest
import torch
from PIL import Image

from release import speedrun
from release.recipes import COMMON, RECIPES
from training.command import main as train
from training.evaluate.measuring import withstood
from training.options import checked, parse

COLOURS = [(40, 60, 200), (40, 190, 70), (200, 50, 50), (200, 190, 60)]
SMALL = "--batch-size 16 --crop-padding 1 --validation-pictures 16 --validation-attacked 4 --precision float32"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for split, count in (("train", 14), ("test", 2)):
        for number, colour in enumerate(COLOURS):
            place = tmp_path / "data" / split / f"class{number}"
            place.mkdir(parents=True)
            for index in range(count):
                pixels = (torch.tensor(colour) + torch.randint(-40, 40, (8, 8, 3))).clamp(0, 255).to(torch.uint8)
                Image.fromarray(pixels.numpy()).save(place / f"{index}.png")
    return tmp_path


def command(*more: str) -> list[str]:
    return [
        "--minutes=0.01",
        "--arch=wrn-10-1",
        "--pictures=8",
        "--out=.",
        f"--training={SMALL}",
        *more,
    ]


@pytest.mark.thorough
def test_it_trains_judges_and_goes_on_where_it_was_stopped(folder, monkeypatch, capsys):
    judged: list[str] = []

    def stopping(trial, attack):
        judged.append(attack.id.family)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return withstood(trial, attack)

    monkeypatch.setattr(speedrun, "withstood", stopping)
    trainings: list[list[str]] = []

    def training(arguments):
        trainings.append(arguments)
        return train(arguments)

    monkeypatch.setattr(speedrun, "train", training)
    with pytest.raises(KeyboardInterrupt):
        speedrun.main(command("--recipes", "nuat", "prior"))
    (row,) = json.loads((folder / "speedrun.json").read_text())
    assert set(row["right"]) == {"clean", "apgd-ce"}
    assert "No recipe" in (folder / "speedrun.md").read_text()

    assert speedrun.main(command("--recipes", "nuat", "prior")) == 0
    assert [arguments[arguments.index("--run") + 1] for arguments in trainings] == [
        "speedrun/wrn-10-1-0.01-0/nuat",
        "speedrun/wrn-10-1-0.01-0/prior",
    ]
    first, second = json.loads((folder / "speedrun.json").read_text())
    assert first["right"]["clean"] == row["right"]["clean"]
    for one, name in ((first, "nuat"), (second, "prior")):
        assert one["recipe"] == name
        assert one["pictures"] == 8
        assert one["lowest"] <= one["apgd-ce"] <= one["clean"]
        assert all(len(answers) == 8 for answers in one["right"].values())
        assert one["multiplications"] > one["parameters"] > 70_000
        # The budget is cut off at the end of a step, and a validation may take longer than the one before.
        assert 0 < one["core_minutes"] < 0.2
        assert f"--recipes {name}" in one["command"]
    page = (folder / "speedrun.md").read_text()
    assert page.count("python -m release.speedrun --data-root data") == 2
    assert "| nuat | NuAT of weight 4" in page
    # Nothing is left to do.
    judged.clear()
    assert speedrun.main(command("--recipes", "nuat", "prior")) == 0
    assert not judged
    assert len(trainings) == 2


def test_the_pictures_are_those_that_training_held_out_and_no_test_pictures(folder, monkeypatch):
    seen = []

    def passing(trial, attack):
        seen.append(trial)
        return torch.ones(len(trial), dtype=torch.bool)

    monkeypatch.setattr(speedrun, "withstood", passing)
    assert speedrun.main(command("--recipes", "uniform", "--pictures=16")) == 0
    files = {path: Image.open(path).tobytes() for path in (folder / "data").rglob("*.png")}
    shown = {(255 * picture).round().to(torch.uint8).permute(1, 2, 0).numpy().tobytes() for picture in seen[0].images}
    assert len(shown) == 16
    assert shown <= {content for path, content in files.items() if "train" in path.parts}


def test_an_unknown_recipe_is_answered_with_the_nearest(folder, capsys):
    assert speedrun.main(command("--recipes", "nuatt")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown recipe 'nuatt'")
    assert "nuat" in error.split(";")[1]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_command_line_that_training_takes(name):
    arguments = ["--data-root", "data", *COMMON, "--minutes", "1", "--minutes-of", "core", *RECIPES[name].flags]
    checked(parse(arguments))


def options(*more: str):
    return speedrun.parse(command("--threads=1", *more))


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("other", ["--pictures=16", "--training=--no-flip", "--threads=2", "--data-root=other"])
def test_a_row_of_other_options_is_refused_and_stays(tmp_path, monkeypatch, capsys, other, done):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speedrun, "trained", lambda *_: pytest.fail("it must not be trained"))
    entry, then = speedrun.Entry("nuat", "wrn-10-1", 0.01, 0), options()
    row = {**entry.key, "command": entry.command(then), "training_command": entry.training_line(then)}
    row["right"] = dict.fromkeys(speedrun.JUDGED if done else ["clean"], "1" * 8)
    (tmp_path / "speedrun.json").write_text(json.dumps([row]))
    arguments = command("--threads=1", "--recipes=nuat")
    if done:
        assert speedrun.main(arguments) == 0
    assert speedrun.main([*arguments, other]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: speedrun.json: the row of nuat has other options: " + other.split("=")[0])
    assert json.loads((tmp_path / "speedrun.json").read_text()) == [row]


def test_a_row_of_a_recipe_that_has_changed_since_is_refused():
    entry, now = speedrun.Entry("nuat", "wrn-10-1", 0.01, 0), options()
    row = {**entry.key, "command": entry.command(now), "training_command": "python -m training --method pgd"}
    with pytest.raises(speedrun.SpeedrunError, match=r"other options: its training .was python -m training --method"):
        speedrun.check_options(entry, now, row)


def test_a_training_of_another_command_is_not_taken_for_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = speedrun.Entry("nuat", "wrn-10-1", 0.01, 0)
    entry.folder.mkdir(parents=True)
    (entry.folder / "state.pt").write_bytes(b"")
    entry.note.write_text(entry.training_line(options("--training=--batch-size 8")))
    with pytest.raises(speedrun.SpeedrunError, match=r"another command: python -m training .*; give its options, or"):
        speedrun.trained(entry, options())
