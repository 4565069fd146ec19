import hashlib
import json
from typing import Any

import pytest

from sgn_serve.inference.graph import GraphError, read_graph
from sgn_serve.serving.model_card import model_card
from sgn_serve.settings import BUNDLED_MODEL, Settings
from tests.sgn_serve.tiny_graph import CLASS_NAMES, SHA256, save_tiny_graph

FIGURES: dict[str, Any] = {
    "headline": {"lowest accuracy per picture": 0.3},
    "auto_attack": {"block on": 0.35},
    "rows": [
        {"id": {"state": "block on", "family": "clean"}, "title": "clean", "accuracy": 0.7},
        {"id": {"state": "block off", "family": "pgd", "steps": 20}, "title": "PGD-20", "accuracy": 0.4},
    ],
    "lowest": {"block on": 0.3, "block off": 0.2},
    "setting": {
        "checkpoint_sha256": SHA256, "data": "pictures", "split": "test", "pictures": 10, "norm": "L-inf",
        "eps": 8 / 255, "restarts": 1, "seed": 1,
    },
    "about": {"command": "python -m training.evaluate"},
}  # fmt: skip


def card(path, **settings):
    return model_card(read_graph(path), Settings(model_path=path, **settings))


def test_the_bundled_models_card_says_what_its_files_say():
    shown = card(BUNDLED_MODEL)
    figures = json.loads(BUNDLED_MODEL.with_suffix(".json").read_text())
    assert shown.model == figures["setting"]["checkpoint_sha256"]
    assert shown.graph_sha256 == hashlib.sha256(BUNDLED_MODEL.read_bytes()).hexdigest()
    assert shown.architecture == figures["setting"]["architecture"]
    assert shown.data == "CIFAR-10 (JPEG copy)"
    assert len(shown.classes) == 10
    assert (shown.preprocessing.height, shown.preprocessing.width) == (32, 32)
    assert len(shown.preprocessing.mean) == 3
    assert shown.training["recipe"]["epochs"] > 0
    assert [(row.block, row.attack, row.accuracy, row.parameters) for row in shown.measured.rows] == [
        (row["id"]["state"], row["title"], row["accuracy"], row["attack"]) for row in figures["rows"]
    ]
    assert all(row.parameters is not None for row in shown.measured.rows)
    assert shown.measured.pictures == figures["setting"]["pictures"]
    assert shown.measured.lowest == figures["lowest"]
    assert shown.measured.auto_attack == figures["auto_attack"]
    assert shown.measured.clean == {
        row["id"]["state"]: row["accuracy"] for row in figures["rows"] if row["title"] == "clean"
    }
    assert [shown.measured.headline] == list(figures["headline"].values())
    assert shown.measured.headline_interval_95 == figures["headline_interval_95"]
    assert shown.measured.likely_overestimated == figures["robustness_likely_overestimated"]
    assert shown.measured.git_commit == figures["about"]["git_commit"]
    assert shown.notes == []
    assert (shown.flags is None) == ("checklist" not in figures)
    assert shown.disagreement["attacks"]["PGD-20"]["area_under_roc"] > 0


def test_without_a_measurement_there_are_no_figures(tmp_path):
    shown = card(save_tiny_graph(tmp_path / "m.onnx"))
    assert shown.model == SHA256
    assert shown.classes == list(CLASS_NAMES)
    assert (shown.measured, shown.flags, shown.disagreement, shown.architecture) == (None, None, None, None)
    assert shown.notes == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("not json", "cannot be read (Expecting value"),
        ("[]", "holds no figures of a graph"),
        (json.dumps({"class_names": ["a"]}), "holds no figures of a graph"),
        (json.dumps({**FIGURES, "setting": {**FIGURES["setting"], "checkpoint_sha256": "f" * 64}}), "another check"),
        (json.dumps({**FIGURES, "setting": {**FIGURES["setting"], "eps": 4 / 255}}), "--eps 0.03137, and export"),
        (json.dumps({**FIGURES, "graph_sha256": "e" * 64}), "the graph has changed since"),
        (
            json.dumps({**FIGURES, "rows": [{"id": {"state": "exported graph"}, "attack": {"graph_sha256": "e"}}]}),
            "the graph has changed since",
        ),
        (" " * 2_000_001, "more than 2000000 bytes"),
    ],
)
def test_figures_of_something_else_are_told_and_not_shown(tmp_path, content, told):
    path = save_tiny_graph(tmp_path / "m.onnx", checkpoint={"epsilon": 8 / 255})
    path.with_suffix(".json").write_text(content)
    shown = card(path)
    assert (shown.measured, shown.flags, shown.disagreement) == (None, None, None)
    (note,) = shown.notes
    assert note.startswith("m.json: ")
    assert told in note
    assert ", so no figures are shown; " in note
    assert "\n" not in note


def test_figures_of_this_graph_are_shown(tmp_path):
    path = save_tiny_graph(tmp_path / "m.onnx", checkpoint={"epsilon": 0.0})
    graph_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    about = {**FIGURES["about"], "date": "2026-11-26", "git_commit": "abc"}
    path.with_suffix(".json").write_text(json.dumps({**FIGURES, "graph_sha256": graph_sha256, "about": about}))
    shown = card(path)
    assert shown.notes == []
    assert (shown.measured.date, shown.measured.git_commit) == ("2026-11-26", "abc")
    assert shown.measured.clean == {"block on": 0.7}
    assert shown.measured.auto_attack == {"block on": 0.35}
    assert shown.measured.headline == 0.3
    assert shown.measured.headline_interval_95 is None


def test_a_model_without_a_block_says_so(tmp_path):
    shown = card(save_tiny_graph(tmp_path / "m.onnx", block=False))
    assert (shown.has_block, shown.has_gradient, shown.defaults.self_gradient) == (False, False, False)
    shown = card(save_tiny_graph(tmp_path / "m.onnx"), top_k=2)
    assert (shown.has_block, shown.has_gradient, shown.defaults.self_gradient) == (True, True, True)
    assert shown.defaults.top_k == 2
    assert not card(save_tiny_graph(tmp_path / "m.onnx"), self_gradient=False).defaults.self_gradient


def test_only_raised_flags_are_shown(tmp_path):
    path = save_tiny_graph(tmp_path / "m.onnx")
    finding = {"name": "gradients", "value": 0.5, "threshold": "above 0.97", "consequence": True, "detail": ""}
    checklist = [{**finding, "verdict": verdict} for verdict in ("ok", "raised", "not measured", "suspect")]
    path.with_suffix(".json").write_text(json.dumps({**FIGURES, "checklist": checklist}))
    shown = card(path, max_disagreement=0.1, background=(0, 10, 255))
    assert [flag.verdict for flag in shown.flags] == ["raised", "suspect"]
    assert [(row.block, row.attack, row.accuracy) for row in shown.measured.rows] == [
        ("block on", "clean", 0.7),
        ("block off", "PGD-20", 0.4),
    ]
    assert shown.max_disagreement == 0.1
    assert shown.preprocessing.background == "#000aff"


@pytest.mark.parametrize("field", [{"epsilon": "8/255"}, {"mean": "0.5"}, {"block": 5}, {"dataset": ["a"]}])
def test_metadata_that_describe_no_network_are_refused_in_one_line(tmp_path, field):
    path = save_tiny_graph(tmp_path / "m.onnx", checkpoint=field)
    with pytest.raises(
        GraphError, match=r"m\.onnx: its metadata self_gradient_network cannot .*; export it again"
    ) as bad:
        card(path)
    assert "\n" not in str(bad.value)


@pytest.mark.parametrize(
    "wrong", [{"disagreement": 0.54}, {"lowest": 0.3}, {"rows": [{"title": "clean"}]}, {"checklist": [{}]}]
)
def test_figures_of_another_form_are_refused_in_one_line(tmp_path, wrong):
    path = save_tiny_graph(tmp_path / "m.onnx")
    path.with_suffix(".json").write_text(json.dumps({**FIGURES, **wrong}))
    with pytest.raises(GraphError, match=r"m\.json: these are no figures of a model .*take the file away") as bad:
        card(path)
    assert "\n" not in str(bad.value)


@pytest.mark.parametrize("missing", ["headline", "lowest", "about"])
def test_figures_that_lack_something_are_refused_in_one_line(tmp_path, missing):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    figures = {name: value for name, value in FIGURES.items() if name != missing}
    model.with_suffix(".json").write_text(json.dumps(figures))
    with pytest.raises(
        GraphError, match=rf"tiny\.json: these are no figures of a model .*{missing}.*take the file away"
    ):
        card(model)


def test_how_pictures_are_resized_is_shown(tmp_path):
    assert card(BUNDLED_MODEL).preprocessing.resize_mode == "stretch"
    cropping = save_tiny_graph(tmp_path / "crop.onnx", checkpoint={"resize": "crop"})
    assert card(cropping).preprocessing.resize_mode == "crop"
    squeezing = save_tiny_graph(tmp_path / "squeeze.onnx", checkpoint={"resize": "squeeze"})
    with pytest.raises(GraphError, match="cannot be used"):
        card(squeezing)


def test_the_background_is_the_networks_unless_told(tmp_path, caplog):
    assert card(BUNDLED_MODEL).preprocessing.background == "#ffffff"
    grey = save_tiny_graph(tmp_path / "grey.onnx", checkpoint={"resize": "pad", "background": "#7F7f7f"})
    assert card(grey).preprocessing.background == "#7f7f7f"
    assert card(grey, background=(127, 127, 127)).preprocessing.background == "#7f7f7f"
    assert not caplog.records
    assert card(grey, background=(0, 0, 0)).preprocessing.background == "#000000"
    assert "pads pictures in another colour than #7f7f7f" in caplog.text
    for wrong in ("grey", 5):
        bad = save_tiny_graph(tmp_path / "bad.onnx", checkpoint={"background": wrong})
        with pytest.raises(GraphError, match="no colour such as #ffffff"):
            card(bad)
