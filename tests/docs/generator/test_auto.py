"""The site's sentences on self_gradient=auto follow from the figures, also from others than those of today."""

from typing import Any

import pytest

from benchmarks.engines.auto_mode import Contender
from docs.generator import auto
from docs.generator.results import OFF, ON, result

FLOAT32, BFLOAT16 = ("onnxruntime", "float32"), ("openvino", "bf16")
NAMES = {
    (engine, mode): Contender(*engine, mode).name
    for engine in (FLOAT32, BFLOAT16)
    for mode in ("off", "on", "auto", "twice")
}


def row(best: float, median: float | None = None) -> dict[str, float]:
    return {"best_ms": 10 * best, "ratio_of_best": best, "ratio_of_medians": best if median is None else median}


@pytest.fixture
def measured() -> dict[str, Any]:
    """Return an entry auto of results/engines.json."""
    rows = {
        (FLOAT32, "off"): row(1.0),
        (FLOAT32, "on"): row(4.0),
        (FLOAT32, "auto"): row(1.65, 1.7),
        (BFLOAT16, "off"): row(0.5),
        (BFLOAT16, "on"): row(1.0),
        (BFLOAT16, "auto"): row(0.9, 1.04),
    }
    batch = {NAMES[key]: value for key, value in rows.items()}
    answers = {"clean": {"agreement": 0.996, "second_pass": 0.1}, "attacked": {"agreement": 0.995, "second_pass": 0.3}}
    return {
        "pictures": 1024,
        "attacked_pictures": 512,
        "attack": "PGD-20 on the network's own answers, block on",
        "batches": {"8": batch, "32": batch | {NAMES[FLOAT32, "auto"]: row(1.7, 1.9)}},
        "answers": {NAMES[engine, "auto"]: answers for engine in (FLOAT32, BFLOAT16)},
    }


def cells(table: str) -> list[list[str]]:
    """Return the cells of a table's rows."""
    lines = table.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_an_aim_is_called_reached_only_where_it_is(measured: dict[str, Any]) -> None:
    table = auto.aims_table(measured, {"pgd_20": {"pictures": 200, "agreement": 0.9949}})
    assert [line[2:] for line in cells(table)] == [
        ["1.65, median 1.70", "reached"],
        ["1.70, median 1.90", "reached by the best time, missed by the median"],
        ["0.90, median 1.04", "reached by the best time, missed by the median"],
        ["0.90, median 1.04", "reached by the best time, missed by the median"],
        ["99.60 %", "reached"],
        ["99.50 %", "reached"],
        ["99.49 %", "missed"],
    ]
    assert "after PGD-20 on the network's own answers" in table
    assert "it would be 1.40 and 1.40 plain passes at batch 8 and 32." in table
    measured["batches"]["8"][NAMES[FLOAT32, "auto"]] = row(1.71, 1.6)
    assert cells(auto.aims_table(measured, {}))[0][-1] == "missed"


def test_the_dearest_picture_is_added_up_until_it_is_measured(measured: dict[str, Any]) -> None:
    added = auto.most_table(measured)
    assert [line[1:] for line in cells(added)] == [["1.250", "1.250"], ["1.500", "1.500"]]
    assert "are added up" in added
    assert "At most 1.3 was aimed for: it is more at batch 8 and 32." in added
    for batch in measured["batches"]:
        measured["batches"][batch] |= {NAMES[FLOAT32, "twice"]: row(4.4), NAMES[BFLOAT16, "twice"]: row(1.3)}
    found = auto.most_table(measured)
    assert [line[1:] for line in cells(found)] == [["1.100", "1.100"], ["1.300", "1.300"]]
    assert "added up" not in found
    assert "At most 1.3 was aimed for: it is reached at every batch size." in found


def test_sizing_takes_the_share_under_attack(measured: dict[str, Any]) -> None:
    text = auto.sizing_table(measured, {"pictures": 200, "second_pass": 0.25, "per_picture": 0.5})
    table = text.partition("\n\n")[2]
    assert cells(table) == [
        ["ONNX Runtime, float32", "4.0", "1.7", "3.0, 4.5"],  # 1 + 0.5 * 4; a second pass costs 7 in small batches
        ["OpenVINO, bf16", "1.0", "0.9", "1.0, 2.5"],
    ]
    assert text.startswith(
        "An attack on the saving makes 50.0 % of 200 pictures need the second pass, instead of 25.0 %."
    )


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, "was not measured yet. So `auto` is not its default."),
        (
            {"pictures": 100, "not_run": ["one, 5 steps", "two"]},
            "not decided, so `auto` is not its default.\n"
            "So far only 100 of the 1,000 pictures were attacked, and not by these attacks: one, 5 steps; two.",
        ),
        ({"pictures": 100, "not_run": []}, "So far only 100 of the 1,000 pictures were attacked."),
        ({"pictures": 1000, "not_run": ["two"]}, "So far 1,000 pictures were attacked, and not by these attacks: two."),
        (
            {"pictures": 1000, "not_run": []},
            "it is 0.2 points under the lower of the two. So `auto` may be its default.",
        ),
    ],
)
def test_auto_may_be_the_default_only_after_all_attacks_on_all_pictures(
    found: dict[str, Any] | None, told: str
) -> None:
    lowest = {"lowest": {ON: 0.37, OFF: 0.366, "auto": 0.364}}
    assert auto.verdict_of(None if found is None else found | lowest, 1000).endswith(told)


def test_auto_that_is_weaker_is_no_default_whatever_is_left_to_run() -> None:
    found = {"pictures": 1000, "not_run": ["two"], "lowest": {ON: 0.37, OFF: 0.366, "auto": 0.36}}
    assert auto.verdict_of(found, 1000).endswith("0.6 points under the lower of the two. So `auto` is not its default.")
    found["lowest"] = {ON: 0.37, OFF: 0.366, "auto": 0.368}
    assert "0.2 points over the lower" in auto.verdict_of(found | {"not_run": []}, 1000)


def test_an_attack_that_takes_nothing_of_the_saving_is_told_without_a_sign() -> None:
    slow = {"pictures": 200, "second_pass": 0.25, "per_picture": 0.66, "per_picture_taken": 0.55}
    slow |= {"universal_pictures": 100, "universal_second_pass": 0.26, "universal": 0.24, "universal_taken": -0.027}
    assert auto.slow_down(slow) == (
        "An attack on the saving makes 66.0 % of 200 pictures need the second pass instead of 25.0 %: "
        "it takes 55 % of the saving. One perturbation for all makes it 24.0 % of 100 pictures instead of 26.0 %: "
        "it takes nothing of the saving."
    )


def test_a_service_is_called_ahead_only_by_more_than_noise() -> None:
    assert auto.ahead({"1": 1.06, "8": 2.0}).endswith("ahead at every number of connections")
    assert auto.ahead({"1": 1.04, "8": 2.0}).endswith("ahead at 8 connections only")
    assert auto.ahead({"1": 0.9}).endswith("ahead nowhere")


def test_the_cost_names_its_own_machine_and_commit_and_what_has_changed_since() -> None:
    measured = result("engines")["auto"]
    text = auto.auto_cost()
    assert f"threads of {measured['processor'].partition(' (')[0]}, at commit `{measured['git_commit']}`" in text
    assert ("never spun" in text) == (measured["git_commit"] in auto.REMARKS)
