"""The figures of a checkpoint go beside its graph: which are taken, what is left out, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from export.figures import (
    Evaluation,
    FiguresError,
    check_place,
    figures_of,
    find_evaluation,
    stale_figures,
    write_figures,
)
from sgn_serve.common.graph_format import figures_path, file_sha256
from sgn_serve.inference.graph import read_graph
from sgn_serve.serving.model_card import model_card
from sgn_serve.settings import Settings
from tests.export.evaluations import EPS, report_of
from tests.sgn_serve.tiny_graph import SHA256, save_tiny_graph
from tests.training.checkpoints import tiny_info

INFO = tiny_info()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


def test_the_report_beside_the_checkpoint_is_found(checkpoint: Path) -> None:
    assert find_evaluation(checkpoint, INFO) is None
    report = report_of(file_sha256(checkpoint))
    (checkpoint.parent / "report").mkdir()
    in_folder = checkpoint.parent / "report" / "evaluation.json"
    report.save(in_folder)
    found = find_evaluation(checkpoint, INFO)
    assert found is not None
    assert found.path == in_folder
    beside = checkpoint.parent / "evaluation.json"
    report.save(beside)
    found = find_evaluation(checkpoint, INFO)
    assert found is not None
    assert found.path == beside
    report_of("f" * 64).save(beside)  # another checkpoint's: the other report is good
    found = find_evaluation(checkpoint, INFO)
    assert found is not None
    assert found.path == in_folder


def test_a_report_may_be_named_by_its_folder(checkpoint: Path, tmp_path: Path) -> None:
    report_of(file_sha256(checkpoint)).save(tmp_path / "evaluation.json")
    for named in (tmp_path, tmp_path / "evaluation.json"):
        found = find_evaluation(checkpoint, INFO, named)
        assert found is not None
        assert found.content["headline"] == {"lowest accuracy per picture": 0.5}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("{", "is no JSON"),
        ('{"format": "self-gradient-figures/1"}', "does not say format 'self-gradient-evaluation/2'"),
        (json.dumps(report_of("f" * 64).as_dict()), "is of another checkpoint (ffffffffffff) than"),
        ("not finished", "was not finished; the same command goes on with it: python -m training.evaluate --seed=3 "),
        ("other epsilon", "was measured with eps 0.01569, but the network was trained for 0.03137"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(checkpoint: Path, content: str | None, told: str) -> None:
    path = checkpoint.parent / "evaluation.json"
    if content == "other epsilon":
        report_of(file_sha256(checkpoint), eps=4 / 255).save(path)
    elif content == "not finished":
        report = report_of(file_sha256(checkpoint))
        report.likely_overestimated = None
        report.about["command"] = f"python -m training.evaluate --seed=3 --ckpt {checkpoint}"
        report.save(path)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(FiguresError) as bad:
        find_evaluation(checkpoint, replace(INFO, epsilon=EPS), path)
    assert str(bad.value).startswith(f"{path}: ")
    assert told in str(bad.value)
    assert f" --ckpt {checkpoint}" in str(bad.value)


def test_a_network_trained_for_no_epsilon_may_be_judged_at_any(checkpoint: Path) -> None:
    report_of(file_sha256(checkpoint), eps=4 / 255).save(checkpoint.parent / "evaluation.json")
    assert find_evaluation(checkpoint, replace(INFO, epsilon=0.0)) is not None


def test_rows_of_another_graph_do_not_count() -> None:
    report = report_of("f" * 64, graph_sha256="a" * 64).as_dict()
    same, other = figures_of(report, "a" * 64), figures_of(report, "b" * 64)
    assert same["headline"] == report["headline"] == {"lowest accuracy per picture": 0.25}
    assert same["lowest"] == report["lowest"] == {"block on": 0.5, "block off": 1.0, "exported graph": 0.25}
    assert other["headline"] == {"lowest accuracy per picture": 0.5}
    assert other["lowest"] == {"block on": 0.5, "block off": 1.0}
    assert other["headline_interval_95"] != report["headline_interval_95"]
    assert [row["title"] for row in other["rows"]] == ["clean", "PGD-20", "clean"]
    assert all(set(row) == {"id", "title", "accuracy", "attack"} for row in same["rows"])


def test_the_service_shows_what_export_has_put_beside_the_graph(tmp_path: Path) -> None:
    """SHA256 is what the tiny graph says it was exported from."""
    graph = save_tiny_graph(tmp_path / "m.onnx", checkpoint={"epsilon": EPS})
    path = tmp_path / "evaluation.json"
    report_of(SHA256, graph_sha256="a" * 64).save(path)
    written, left_out = write_figures(Evaluation(path, json.loads(path.read_text())), graph)
    assert (written, left_out) == (tmp_path / "m.json", 1)
    card = model_card(read_graph(graph), Settings(model_path=graph))
    assert card.notes == []
    assert card.measured is not None
    assert card.measured.clean == {"block on": 0.75, "block off": 1.0}
    assert card.measured.lowest == {"block on": 0.5, "block off": 1.0}
    assert (card.measured.headline, card.measured.pictures, card.measured.eps) == (0.5, 4, EPS)
    assert (card.measured.date, card.measured.git_commit) == ("2026-11-26", "abc")
    assert stale_figures(graph) is None

    save_tiny_graph(graph, checkpoint={"epsilon": EPS, "seed": 1})
    assert stale_figures(graph) == written
    changed = model_card(read_graph(graph), Settings(model_path=graph))
    assert changed.measured is None
    assert "the graph has changed since the figures were put beside it" in changed.notes[0]


def test_a_damaged_report_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint.parent / "evaluation.json"
    report = report_of(file_sha256(checkpoint)).as_dict()
    report["rows"][0]["withstood"] = "11x0"
    path.write_text(json.dumps(report))
    evaluation = find_evaluation(checkpoint, INFO)
    assert evaluation is not None
    graph = save_tiny_graph(tmp_path / "m.onnx")
    with pytest.raises(FiguresError, match=r"evaluation\.json: a report whose rows cannot be read .*judge the check"):
        write_figures(evaluation, graph)
    assert not figures_path(graph).exists()


def test_only_figures_are_replaced(tmp_path: Path) -> None:
    check_place(tmp_path / "m.onnx")
    (tmp_path / "m.json").write_text('{"mine": 1}')
    with pytest.raises(FiguresError, match=r"m\.json: is no file of figures, and those of m\.onnx would replace it"):
        check_place(tmp_path / "m.onnx")
    check_place(tmp_path / "m.torchscript.pt")  # its figures are in m.torchscript.pt.json
    (tmp_path / "m.json").write_text('{"format": "self-gradient-figures/1"}')
    check_place(tmp_path / "m.onnx")
