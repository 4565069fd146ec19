"""The page's adversarial examples: those that are committed are of the bundled model, and say the truth."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from release import adversarial_examples
from release.adversarial_examples import (
    BUNDLED_CHECKPOINT,
    DESCRIPTION,
    FOLDER,
    STEPS,
    ExamplesError,
    choose,
    likeliest,
    load,
    scaled,
)
from release.disagreement import example_names, example_pictures

RENEW = "make them anew: python -m release.adversarial_examples --plain CHECKPOINT, of the standard baseline"


@pytest.fixture(scope="module")
def described():
    return json.loads((FOLDER / DESCRIPTION).read_text())


def pixels(file):
    return np.asarray(Image.open(FOLDER / file))


def every_tampering(described):
    for example in described["examples"]:
        for attacked, tampered in example["tampered"].items():
            yield example, attacked, tampered


def test_they_are_of_the_bundled_model_and_of_its_baseline(described, project_root):
    bundled = hashlib.sha256(BUNDLED_CHECKPOINT.read_bytes()).hexdigest()
    assert described["models"]["bundled"]["checkpoint_sha256"] == bundled, RENEW
    baseline = json.loads((project_root / "results" / "bundled" / "standard.json").read_text())["setting"]
    assert described["models"]["standard"]["checkpoint_sha256"] == baseline["checkpoint_sha256"], RENEW
    assert ".adversarial_examples --plain runs/" in described["command"]
    assert not described["git_commit"].endswith("+changes")


def test_the_pictures_are_the_repositorys_and_stay_within_the_budget(described, project_root):
    files = {DESCRIPTION}
    for example, attacked, tampered in every_tampering(described):
        clean, perturbed = pixels(example["file"]), pixels(tampered["file"])
        original = np.asarray(Image.open(project_root / "examples" / f"{example['name']}.png"))
        np.testing.assert_array_equal(clean, original)
        difference = np.abs(perturbed.astype(int) - clean)
        assert STEPS / 2 < difference.mean() <= difference.max() <= STEPS == round(255 * described["eps"])
        assert tampered["attack"] in [attack["name"] for attack in described["models"][attacked]["attacks"]]
        files |= {example["file"], tampered["file"]}
    assert {path.name for path in FOLDER.iterdir()} == files


def test_what_is_recorded_of_the_bundled_model_is_what_it_answers(described):
    """So that what the page shows live agrees with what was recorded; of the likeliest class, whichever it is."""
    checked = (0, 4, STEPS)
    pictures = []
    recorded: dict[str, list[float]] = {"bundled": [], "bundled, block off": []}
    for example, _, tampered in every_tampering(described):
        clean, full = pixels(example["file"]), pixels(tampered["file"])
        pictures += [scaled(clean, full, strength) for strength in checked]
        for key, rows in recorded.items():
            rows += [tampered[key][strength]["probability"] for strength in checked]
    corrected, plain = load(BUNDLED_CHECKPOINT).probabilities(np.stack(pictures))
    for key, answered in (("bundled", corrected), ("bundled, block off", plain)):
        now = [row["probability"] for row in likeliest(answered)]
        np.testing.assert_allclose(now, recorded[key], atol=2e-3, err_msg=RENEW)


def test_the_page_shows_both_sides(described):
    """Who attacks a model fools it, the standard one always, and the bundled one often, but not always."""
    right: dict[str, set[bool]] = {"bundled": set(), "standard": set()}
    for example, attacked, tampered in every_tampering(described):
        last = tampered[attacked][-1]
        label = last["label"] if attacked == "bundled" else int(np.argmax(last))
        right[attacked].add(label == example["label"])
        assert len(tampered["standard"]) == len(tampered["bundled"]) == STEPS + 1
        assert np.argmax(tampered["standard"][0]) == tampered["bundled"][0]["label"] == example["label"]
    assert right == {"bundled": {True, False}, "standard": {False}}


def test_scaling_stays_within_the_strength():
    clean = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    rng = np.random.default_rng(0)
    full = np.clip(clean + rng.integers(-STEPS, STEPS + 1, clean.shape), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(scaled(clean, full, 0), clean)
    np.testing.assert_array_equal(scaled(clean, full, STEPS), full)
    before = np.zeros(clean.shape)
    for strength in range(STEPS + 1):
        size = np.abs(scaled(clean, full, strength).astype(int) - clean)
        assert size.max() <= strength
        assert (size >= before).all()
        before = size
    one = np.array([100], np.uint8)
    assert [int(scaled(one, np.array([104], np.uint8), strength)[0]) for strength in (1, 2, 3)] == [101, 101, 102]
    assert [int(scaled(one, np.array([96], np.uint8), strength)[0]) for strength in (1, 2, 3)] == [99, 99, 98]


def test_the_choice_does_not_look_at_how_the_attack_ends():
    labels = torch.tensor([0, 0, 1, 1, 2])
    both_right = np.array([False, True, True, True, False], np.bool_)
    assert choose(labels, both_right, np.array([True, True, False, True, True], np.bool_)) == [1, 2]
    # unless it would show a model that cannot be fooled
    assert choose(labels, both_right, np.array([True, True, True, False, True], np.bool_)) == [1, 3]
    with pytest.raises(ExamplesError, match="fools the bundled model on no picture"):
        choose(labels, both_right, np.array([True] * 5, np.bool_))


def test_the_command(tmp_path, monkeypatch, capsys):
    """On a few pictures, with the bundled model in both roles."""
    images, labels = example_pictures()
    names = example_names()
    some = slice(60, 84, 3)
    monkeypatch.setattr(adversarial_examples, "example_pictures", lambda: (images[some], labels[some]))
    monkeypatch.setattr(adversarial_examples, "example_names", lambda: names[some])
    few = {name: [replace(attacks[0], steps=5)] for name, attacks in adversarial_examples.ATTACKS.items()}
    monkeypatch.setattr(adversarial_examples, "ATTACKS", few)
    out = tmp_path / "examples"
    assert adversarial_examples.main(["--plain", str(BUNDLED_CHECKPOINT), "--out", str(out)]) == 0
    told = json.loads((out / DESCRIPTION).read_text())
    assert told["right_of_all"]["pictures"] == 8
    assert told["command"].endswith(f"--plain {BUNDLED_CHECKPOINT} --out {out}")
    assert told["examples"]
    for example in told["examples"]:
        for tampered in example["tampered"].values():
            shares = np.array(tampered["standard"])
            assert shares.shape == (STEPS + 1, 10)
            np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-3)
            assert [row["label"] for row in tampered["bundled"]] == shares.argmax(axis=1).tolist()
    assert "against standard: {'bundled':" in capsys.readouterr().out
    # Made anew in the same place; what is no such place is left alone.
    (tmp_path / "mine.txt").write_text("mine")
    assert adversarial_examples.main(["--plain", str(BUNDLED_CHECKPOINT), "--out", str(tmp_path)]) == 2
    assert "would be emptied" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_checkpoint_that_is_not_there(tmp_path, capsys):
    assert adversarial_examples.main(["--plain", str(tmp_path / "none.safetensors"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
