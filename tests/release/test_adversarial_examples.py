"""The page's adversarial examples: those that are committed are of the bundled model, and say the truth."""

import base64
import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from export.examples import ExamplesError, attacks_on, likeliest, own_targets, scaled
from release import adversarial_examples
from release.adversarial_examples import BUNDLED_CHECKPOINT, EXAMPLES, SERVED, STANDARD, choose
from release.disagreement import example_names, example_pictures
from sgn_serve.records import Examples
from training.checkpoint import load_checkpoint

STEPS = 8
RENEW = "make them anew: python -m release.adversarial_examples --plain CHECKPOINT, of the standard baseline"


@pytest.fixture(scope="module")
def described():
    return json.loads(EXAMPLES.read_text())


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def every_tampering(described):
    for example in described["examples"]:
        for attacked, tampered in example["tampered"].items():
            yield example, attacked, tampered


def test_they_are_of_the_bundled_model_and_of_its_baseline(described, project_root):
    bundled = hashlib.sha256(BUNDLED_CHECKPOINT.read_bytes()).hexdigest()
    assert described["checkpoint_sha256"] == described["models"][SERVED]["checkpoint_sha256"] == bundled, RENEW
    baseline = json.loads((project_root / "results" / "bundled" / "standard.json").read_text())["setting"]
    assert described["models"][STANDARD]["checkpoint_sha256"] == baseline["checkpoint_sha256"], RENEW
    assert [model["served"] for model in described["models"].values()] == [False, True]
    assert ".adversarial_examples --plain runs/" in described["command"]
    assert not described["git_commit"].endswith("+changes")


def test_the_pictures_are_the_repositorys_and_stay_within_the_budget(described, project_root):
    for example, attacked, tampered in every_tampering(described):
        clean, perturbed = pixels(example["png"]), pixels(tampered["png"])
        original = np.asarray(Image.open(project_root / "examples" / f"{example['name']}.png"))
        np.testing.assert_array_equal(clean, original)
        difference = np.abs(perturbed.astype(int) - clean)
        assert STEPS / 2 < difference.mean() <= difference.max() <= STEPS == described["steps"]
        assert described["steps"] == round(255 * described["eps"])
        assert tampered["attack"] in [attack["name"] for attack in described["models"][attacked]["attacks"]]


def test_what_is_recorded_of_the_bundled_model_is_what_it_answers(described):
    """The page shows live what was recorded of the likeliest class, whichever it is."""
    checked = (0, 4, STEPS)
    pictures = []
    recorded: dict[str, list[float]] = {"block on": [], "block off": []}
    for example, _, tampered in every_tampering(described):
        clean, full = pixels(example["png"]), pixels(tampered["png"])
        pictures += [scaled(clean, full, strength, STEPS) for strength in checked]
        for key, rows in recorded.items():
            rows += [tampered["answers"][key][strength]["probability"] for strength in checked]
    served = own_targets(*load_checkpoint(BUNDLED_CHECKPOINT), "")[SERVED]
    for key, answered in zip(recorded, served.probabilities(np.stack(pictures)), strict=True):
        now = [row["probability"] for row in likeliest(answered)]
        np.testing.assert_allclose(now, recorded[key], atol=2e-3, err_msg=RENEW)


def test_the_page_shows_both_sides(described):
    """An attack on a model fools it: the standard one always, and the bundled one often, but not always."""
    fooled: dict[str, set[bool]] = {SERVED: set(), STANDARD: set()}
    for example, attacked, tampered in every_tampering(described):
        standard, own = tampered["recorded"][STANDARD], tampered["answers"]["block on"]
        label = own[-1]["label"] if attacked == SERVED else int(np.argmax(standard[-1]))
        assert tampered["fooled"] == (label != example["label"])
        fooled[attacked].add(tampered["fooled"])
        assert len(standard) == len(own) == STEPS + 1
        assert np.argmax(standard[0]) == own[0]["label"] == example["label"]
    assert fooled == {SERVED: {True, False}, STANDARD: {True}}


def test_the_choice_does_not_look_at_how_the_attack_ends():
    labels = torch.tensor([0, 0, 1, 1, 2])
    both_right = np.array([False, True, True, True, False], np.bool_)
    assert choose(labels, both_right, np.array([True, True, False, True, True], np.bool_)) == [1, 2]
    # unless it would show a model that cannot be fooled
    assert choose(labels, both_right, np.array([True, True, True, False, True], np.bool_)) == [1, 3]
    with pytest.raises(ExamplesError, match="fools the bundled model on no picture"):
        choose(labels, both_right, np.array([True] * 5, np.bool_))


def test_the_command(tmp_path, monkeypatch, capsys):
    """It runs on a few pictures, with the bundled model in both roles."""
    images, labels = example_pictures()
    names = example_names()
    some = slice(60, 84, 3)
    monkeypatch.setattr(adversarial_examples, "example_pictures", lambda: (images[some], labels[some]))
    monkeypatch.setattr(adversarial_examples, "example_names", lambda: names[some])
    monkeypatch.setattr(
        adversarial_examples, "attacks_on", lambda block, eps: (replace(attacks_on(block, eps)[0], steps=5),)
    )
    out = tmp_path / "m.examples.json"
    assert adversarial_examples.main(["--plain", str(BUNDLED_CHECKPOINT), "--out", str(out)]) == 0
    told = Examples.model_validate_json(out.read_bytes())
    assert told.right_of_all is not None
    assert told.right_of_all.pictures == 8
    assert [row.against for row in told.right_of_all.rows] == [None, STANDARD, SERVED]
    assert told.command.endswith(f"--plain {BUNDLED_CHECKPOINT} --out {out}")
    assert told.examples
    for example in told.examples:
        for tampered in example.tampered.values():
            shares = np.array(tampered.recorded[STANDARD])
            assert shares.shape == (STEPS + 1, 10)
            np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-3)
            # The same network with its block off, as the other role asks it.
            assert [row.label for row in tampered.answers["block off"]] == shares.argmax(axis=1).tolist()
    assert "against standard: {'standard':" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_there(tmp_path, capsys):
    out = tmp_path / "m.examples.json"
    assert adversarial_examples.main(["--plain", str(tmp_path / "none.safetensors"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not out.exists()
