"""The report: accuracy, classes, mistakes, and the pictures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgn_serve.classify.formats import FORMATS
from sgn_serve.classify.report.command import main
from sgn_serve.classify.rows import Row, error_row
from sgn_serve.common.confidence import interval_95

TRUE = ["cat"] * 6 + ["dog"] * 4 + ["cat"]
GIVEN = ["cat"] * 5 + ["dog"] + ["dog"] * 2 + ["cat", "bird"] + [None]


def write(folder, suffix=".csv"):
    rows = [
        Row(f"{number}.png", label, 0, 0.9, [], label, 0.04 if label == true else 0.97, "on", None, None)
        if label
        else error_row(f"{number}.png", "on", "damaged_image", "")
        for number, (true, label) in enumerate(zip(TRUE, GIVEN, strict=True))
    ]
    rows.append(rows[0]._replace(path="unknown.png"))
    format = FORMATS[suffix]
    (folder / "part").write_bytes(format.encode(rows))
    with (folder / f"a{suffix}").open("wb") as file:
        format.join([folder / "part"], file)
    with (folder / "truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("label", "path"), *((true, f"{number}.png") for number, true in enumerate(TRUE)), ("cat", "unused.png")]
        )
    return [str(folder / f"a{suffix}"), "--truth", str(folder / "truth.csv"), "--out", str(folder / "report")]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_figures_are_those_of_the_answers(tmp_path, capsys, suffix):
    assert main(write(tmp_path, suffix)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report' / 'report.md'}: accuracy 70.0 % of 10 pictures\n"
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (figures["pictures"], figures["right"], figures["accuracy"]) == (10, 7, 0.7)
    assert figures["interval_95"] == pytest.approx([0.3968, 0.8922], abs=1e-4)
    assert figures["errors"] == {"damaged_image": 1}
    assert (figures["rows_without_label"], figures["labels_without_row"]) == (1, 1)
    assert {name: (row["right"], row["pictures"]) for name, row in figures["classes"].items()} == {
        "bird": (0, 0),
        "cat": (5, 6),
        "dog": (2, 4),
    }
    assert {"true": "dog", "given": "bird", "pictures": 1} in figures["confusion"]
    assert figures["disagreement"]["right"][0] == 7
    assert figures["disagreement"]["wrong"][-1] == 3
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| dog | 4 | 50.0 % |" in page
    assert "1 picture has the error `damaged_image`" in page


def test_the_confusion_matrix_is_darkest_on_a_class_that_is_right(tmp_path):
    assert main(write(tmp_path)) == 0
    with Image.open(tmp_path / "report" / "confusion.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    cells = sorted((colour for count, colour in colours if count > 500 and colour != (150, 150, 150)), key=np.sum)
    # Cats that are right, dogs that are right, dogs that are called cats or birds, cats that are called dogs, paper.
    assert cells == [(70, 131, 191), (133, 174, 213), (236, 196, 182), (240, 208, 198), (255, 255, 255)]
    with Image.open(tmp_path / "report" / "disagreement.png") as picture:
        shown = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or []}
    assert {(38, 110, 180), (200, 80, 40)} <= shown


def test_tens_of_thousands_of_labels_have_figures_and_no_matrix(tmp_path, capsys):
    """The time of 20,000 labels would be hours if it grew with their square."""
    labels = 20_000
    rows = [
        Row(f"{number}", f"class {number // 2}", 0, 0.9, [], None, None, "off", None, None) for number in range(labels)
    ]
    (tmp_path / "part").write_bytes(FORMATS[".csv"].encode(rows))
    with (tmp_path / "a.csv").open("wb") as file:
        FORMATS[".csv"].join([tmp_path / "part"], file)
    truth = "".join(f"{number},class {number}\n" for number in range(labels))
    (tmp_path / "truth.csv").write_text(f"path,label\n{truth}")
    folder = tmp_path / "report"
    assert main([str(tmp_path / "a.csv"), "--truth", str(tmp_path / "truth.csv"), "--out", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "report.md"]
    classes = json.loads((folder / "report.json").read_text())["classes"]
    assert len(classes) == labels
    assert sum(row["pictures"] for row in classes.values()) == labels
    assert sum(row["right"] for row in classes.values()) == 1
    page = (folder / "report.md").read_text()
    assert "- the 20,000 labels are more than the 4,096 that a matrix is drawn for; report.json has its counts" in page
    assert "confusion.png" not in page


def test_an_interval_is_wilsons():
    assert interval_95(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert interval_95(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        ("file,class\na,b\n", "it has no columns path and label, but file, class"),
        ("path;label\n0.png;cat\n", "but path;label; name them in the first line, with commas between"),
        ("path,label\n", "it has no rows"),
        ("path,label\n0.png,\n1.png\n", "it has no rows; give a path and a label in each"),
        ("path,label\nx/0.png,cat\n", "none of its paths is in"),
        ("path,label\n0.png,cat\n0.png,dog\n", "0.png has the labels cat and dog"),
    ],
)
def test_a_truth_that_does_not_fit_is_told_in_one_line(tmp_path, capsys, truth, reason):
    arguments = write(tmp_path)
    (tmp_path / "truth.csv").write_text(truth)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1


def test_a_picture_without_a_label_is_not_counted_as_wrong(tmp_path):
    arguments = write(tmp_path)
    truth = tmp_path / "truth.csv"
    lines = truth.read_text().splitlines()
    lines[6:] = [f",{line.partition(',')[2]}" for line in lines[6:]]
    truth.write_text("\n".join(lines))
    assert main(arguments) == 0
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (figures["pictures"], figures["rows_without_label"]) == (5, 7)
    assert "" not in figures["classes"]


def test_a_long_list_of_labels_is_no_reason_to_refuse_answers(tmp_path):
    arguments = write(tmp_path)
    answers = Path(arguments[0])
    answers.write_bytes(answers.read_bytes().replace(b"[]", b"[%s]" % (b" " * 200_000), 1))
    assert answers.stat().st_size > 200_000
    assert main(arguments) == 0


def test_other_files_are_no_answers(tmp_path, capsys):
    arguments = write(tmp_path)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert main(arguments) == 1
    assert "these are no answers of sgn classify" in capsys.readouterr().err


def test_answers_are_no_truth_of_themselves(tmp_path, capsys):
    answers, *_, report = write(tmp_path)
    assert main([answers, "--truth", answers, "--out", report]) == 1
    assert "the answers themselves, so all would be right; name a file of the true labels" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path, capsys):
    answers, *_, report = write(tmp_path)
    missing = str(tmp_path / "missing.csv")
    assert main([answers, "--truth", missing, "--out", report]) == 1
    assert capsys.readouterr().err == f"error: {missing}: No such file or directory; correct the path\n"


def test_labels_in_another_case_or_with_spaces_are_told(tmp_path, capsys):
    arguments = write(tmp_path)
    truth = "".join(f"{number}.png,{'Cat ' if true == 'cat' else true}\n" for number, true in enumerate(TRUE))
    (tmp_path / "truth.csv").write_text(f"path,label\n{truth}")
    assert main(arguments) == 0
    told = (
        "5 of the wrong answers differ from the true label in case or white space alone, such as 'cat' from 'Cat ': "
        "write true labels as the model names them"
    )
    assert capsys.readouterr().err == f"note: {told}\n"
    assert f"- {told}.\n" in (tmp_path / "report" / "report.md").read_text()
    # A model with both spellings means two classes by them.
    (tmp_path / "truth.csv").write_text("path,label\n0.png,DOG\n5.png,Dog\n6.png,cat\n")
    assert main(arguments) == 0
    assert "1 of the wrong answers differ" in capsys.readouterr().err
    (tmp_path / "truth.csv").write_text("path,label\n0.png,cat\n5.png,dog\n")
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_class_that_another_one_resembles_is_no_misspelling(tmp_path, capsys, suffix):
    top = [{"label": name, "index": index, "probability": 0.5} for index, name in enumerate(("cat", "Cat"))]
    row = Row("a.png", "cat", 0, 0.5, top, None, None, "off", None, None)
    form, answers = FORMATS[suffix], tmp_path / f"answers{suffix}"
    (tmp_path / "0.part").write_bytes(form.encode([row]))
    with answers.open("wb") as file:
        form.join([tmp_path / "0.part"], file)
    (tmp_path / "truth.csv").write_text("path,label\na.png,Cat\n")
    assert main([str(answers), "--truth", str(tmp_path / "truth.csv"), "--out", str(tmp_path / "report")]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.endswith("accuracy 0.0 % of 1 picture\n")


@pytest.mark.parametrize(
    ("head", "column"), [("path,label,label", "label"), ("path,path,label", "path"), ("label,path,x,label", "label")]
)
def test_a_truth_with_a_column_twice_is_refused(tmp_path, capsys, head, column):
    arguments = write(tmp_path)
    (tmp_path / "truth.csv").write_text(f"{head}\n0.png,cat,dog,bird\n")
    assert main(arguments) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'truth.csv'}: it has several columns '{column}'; keep one, or rename the others\n"
    )
