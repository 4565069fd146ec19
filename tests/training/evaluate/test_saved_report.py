"""Going on with a report that an earlier command left, or not."""

import json
from dataclasses import replace

import pytest
import torch

from training.attacks import gradient_attack
from training.attacks.auto_attack import Square
from training.attacks.rows import CLEAN, RowFilter, RowId
from training.evaluate.page import page
from training.evaluate.report import FORMAT, Report
from training.evaluate.saved_report import SavedReportError

SETTING = {"checkpoint_sha256": "a" * 64, "eps": 8 / 255, "seed": 0, "pictures_sha256": "b" * 64, "reader": "cifar10"}


def labels(report) -> list[str]:
    return [row.label for row in report.rows]


def earlier(report) -> list[dict]:
    return [{"about": entry.about, "rows": [row.label for row in entry.rows]} for entry in report.earlier]


def report_of(*attacks, about=None, setting=SETTING) -> Report:
    report = Report(setting=setting, about=about or {})
    for attack in attacks:
        report.add(attack, torch.tensor([True, False]))
    return report


def test_a_row_of_other_parameters_is_measured_again(tmp_path):
    path = tmp_path / "evaluation.json"
    report_of(gradient_attack.clean_attack(), gradient_attack.pgd_attack(10), gradient_attack.cw_attack(10)).save(path)
    report = Report(setting=SETTING)
    changed = replace(gradient_attack.pgd_attack(10), step_size=0.1)
    assert report.take_over(path, [gradient_attack.clean_attack(), changed]) == 1
    assert labels(report) == ["block on: clean", "block on: CW-10"]


def test_a_row_that_spared_no_picture_stands_for_one_that_would_spare_some_but_not_the_other_way(tmp_path):
    path = tmp_path / "evaluation.json"
    alone, cascaded = Square(), Square(survivors_of=(CLEAN, RowFilter.like(family="apgd-ce")))
    for saved, wanted, done in ((alone, cascaded, 1), (cascaded, alone, 0), (alone, replace(cascaded, queries=9), 0)):
        report_of(saved).save(path)
        assert Report(setting=SETTING).take_over(path, [wanted]) == done


def test_a_report_that_does_not_name_its_pictures_is_of_another_setting(tmp_path):
    path = tmp_path / "evaluation.json"
    nameless = {name: value for name, value in SETTING.items() if name != "pictures_sha256"}
    report_of(gradient_attack.clean_attack(), setting=nameless).save(path)
    with pytest.raises(SavedReportError, match=r"pictures_sha256 \(was not named, now bbbbbbbbbbbb\)"):
        Report(setting=SETTING).take_over(path, [gradient_attack.clean_attack()])


def test_a_report_of_the_first_form_is_refused_in_one_line_that_names_the_fix(tmp_path):
    path = tmp_path / "evaluation.json"
    content = {"format": "self-gradient-evaluation/1", "setting": SETTING, "withstood": {}, "attacks": {}}
    path.write_text(json.dumps(content))
    with pytest.raises(SavedReportError) as refused:
        Report(setting=SETTING).take_over(path, [gradient_attack.clean_attack()])
    assert str(refused.value) == (
        f"{path}: not a report of this kind (its JSON says format 'self-gradient-evaluation/1', not '{FORMAT}'); pass "
        "another --report, or delete that file to measure anew"
    )


def test_a_saved_report_has_id_title_and_figures_of_every_row(tmp_path):
    path = tmp_path / "evaluation.json"
    report_of(gradient_attack.clean_attack(), gradient_attack.smooth_cw_attack(20, 5.0)).save(path)
    _, row = json.loads(path.read_text())["rows"]
    assert row["id"] == {"state": "block on", "family": "cw", "steps": 20, "view": "smooth", "beta": 5.0}
    assert row["title"] == "CW-20, smooth surrogate, beta 5"
    assert (row["accuracy"], row["withstood"]) == (0.5, "10")
    assert row["interval_95"][0] < 0.5 < row["interval_95"][1]
    assert row["attack"]["step_size"] == 2 / 255
    report = Report(setting=SETTING)
    assert report.take_over(path, [gradient_attack.clean_attack(), gradient_attack.smooth_cw_attack(20, 5.0)]) == 2


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"seed": 1}, "seed (was 0, now 1);"),
        ({"checkpoint_sha256": "c" * 64}, "checkpoint_sha256 (was aaaaaaaaaaaa, now cccccccccccc);"),
        ({"pictures_sha256": "d" * 64}, "pictures_sha256 (was bbbbbbbbbbbb, now dddddddddddd);"),
        ({"reader": "image-folder", "seed": 2}, 'seed (was 0, now 2), reader (was "cifar10", now "image-folder");'),
        ({"plain_gradient": "both passes"}, 'plain_gradient (was not named, now "both passes");'),
    ],
)
def test_another_setting_is_refused_with_both_values(tmp_path, now, named):
    path = tmp_path / "evaluation.json"
    report_of(gradient_attack.clean_attack()).save(path)
    with pytest.raises(SavedReportError, match="another setting") as refused:
        Report(setting=SETTING | now).take_over(path, [gradient_attack.clean_attack()])
    message = str(refused.value)
    assert message.startswith(f"{path} is a report of another setting: {named}")
    assert "pass another --report, or delete that file" in message
    assert "\n" not in message


def damaged_reports():
    """Reports of this form with one thing wrong in a row."""
    whole = report_of(gradient_attack.clean_attack(), gradient_attack.pgd_attack(10)).as_dict()
    for damage in (
        {"id": {"state": "block on", "family": "pgd"}},
        {"id": {"state": "block on", "family": "boundary"}},
        {"withstood": "12"},
        {"withstood": 5},
        {"attack": None},
    ):
        first, second = whole["rows"]
        yield {**whole, "rows": [first, {**second, **damage}]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"format": ',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"name": "somebody\'s"}',
        json.dumps({"format": FORMAT}).encode(),
        json.dumps({"format": FORMAT, "setting": SETTING}).encode(),
        json.dumps({"format": FORMAT, "setting": SETTING, "about": {}, "measured": {}, "rows": [{}]}).encode(),
        *(json.dumps(damaged).encode() for damaged in damaged_reports()),
    ],
)
def test_what_is_no_report_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "package.json"
    path.write_bytes(content)
    with pytest.raises(
        SavedReportError, match=r"package\.json: .*pass another --report, or delete that file"
    ) as refused:
        Report(setting=SETTING).take_over(path, [gradient_attack.clean_attack()])
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


def test_a_folder_in_the_reports_place_is_refused(tmp_path):
    with pytest.raises(SavedReportError, match="not a readable report"):
        Report(setting=SETTING).take_over(tmp_path, [gradient_attack.clean_attack()])


FIRST, SECOND, THIRD = ({"command": f"evaluate {name}", "git_commit": name} for name in ("one", "two", "three"))


def gone_on(path, about, *attacks) -> Report:
    """Do what a command does: take over, measure what is lacking, save."""
    report = Report(setting=SETTING, about=about)
    report.take_over(path, attacks)
    for attack in attacks:
        if attack.id not in report.rows:
            report.add(attack, torch.tensor([True, False]))
    report.save(path)
    return report


def test_every_row_keeps_the_command_and_commit_that_measured_it(tmp_path):
    path = tmp_path / "evaluation.json"
    gone_on(path, FIRST, gradient_attack.clean_attack(), gradient_attack.pgd_attack(10))
    gone_on(path, SECOND, gradient_attack.clean_attack(), gradient_attack.cw_attack(10))
    report = gone_on(path, THIRD, gradient_attack.clean_attack())
    saved = json.loads(path.read_text())
    assert saved["about"] == THIRD
    assert [{**entry, "rows": [RowId.from_dict(row).label for row in entry["rows"]]} for entry in saved["earlier"]] == [
        {"about": FIRST, "rows": ["block on: clean", "block on: PGD-10"]},
        {"about": SECOND, "rows": ["block on: CW-10"]},
    ]
    text = page(report, [], [])
    assert "Command: `evaluate three`, commit three." in text
    assert "2 of the rows (`earlier` in the JSON names them): `evaluate one`, commit one." in text
    assert "1 of the rows (`earlier` in the JSON names them): `evaluate two`, commit two." in text
    assert text.endswith("\n\nEach command runs at the commit beside it. Later commits may lack its options.\n")


def test_rows_of_several_reports_come_together_each_with_its_command_and_its_figures(tmp_path):
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    for path, about, attack, seconds in (
        (ours, FIRST, gradient_attack.pgd_attack(10), 3.0),
        (theirs, SECOND, gradient_attack.cw_attack(10), 5.0),
    ):
        report = gone_on(path, about, gradient_attack.clean_attack(), attack)
        report.rows = {one: replace(row, core_seconds=seconds) for one, row in report.rows.items()}
        report.measured = {
            "gradient_correlation": {about["git_commit"]: 0.9},
            "randomness": seconds,
        }
        report.save(path)
    attacks = [
        gradient_attack.clean_attack(),
        gradient_attack.pgd_attack(10),
        gradient_attack.cw_attack(10),
        gradient_attack.pgd_attack(20),
    ]
    report = Report(setting=SETTING, about=THIRD)
    assert [report.take_over(path, attacks) for path in (ours, theirs)] == [2, 1]
    assert labels(report) == ["block on: clean", "block on: PGD-10", "block on: CW-10"]
    row = gradient_attack.cw_attack(10).id
    assert report.rows[row].attack == report_of(gradient_attack.cw_attack(10)).rows[row].attack
    assert [found.core_seconds for found in report.rows.values()] == [3.0, 3.0, 5.0], "clean is the first report's"
    assert earlier(report) == [
        {"about": FIRST, "rows": ["block on: clean", "block on: PGD-10"]},
        {"about": SECOND, "rows": ["block on: CW-10"]},
    ]
    assert report.measured == {
        "gradient_correlation": {"one": 0.9, "two": 0.9},
        "randomness": 3.0,
    }, "where both measured something, the first report's"


def test_the_same_command_again_is_no_earlier_one(tmp_path):
    path = tmp_path / "evaluation.json"
    gone_on(path, FIRST, gradient_attack.clean_attack())
    assert gone_on(path, FIRST, gradient_attack.clean_attack(), gradient_attack.pgd_attack(10)).earlier == []
    gone_on(path, SECOND, gradient_attack.clean_attack(), gradient_attack.cw_attack(10))
    assert earlier(gone_on(path, FIRST, gradient_attack.clean_attack())) == [
        {"about": SECOND, "rows": ["block on: CW-10"]}
    ]


def test_a_row_that_is_measured_again_is_the_last_commands(tmp_path):
    path = tmp_path / "evaluation.json"
    gone_on(path, FIRST, gradient_attack.clean_attack(), gradient_attack.pgd_attack(10))
    report = gone_on(
        path, SECOND, gradient_attack.clean_attack(), replace(gradient_attack.pgd_attack(10), step_size=0.1)
    )
    assert earlier(report) == [{"about": FIRST, "rows": ["block on: clean"]}]
