"""Every figure that the bundled model, the README and the documentation show follows from the committed results.

The documentation's tables and figures are filled in from results/ when the site is built (docs/generator), so they
cannot drift. These tests hold the results against each other, the README against them, and the claims that words make.
"""

import csv
import dataclasses
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks import judging_on_ray
from benchmarks.service import command as service
from docs.generator import gpu
from docs.generator.figures import figure
from docs.generator.readme import AUTO_CHOSEN, README, auto_column, five_rows, section
from docs.generator.results import RESULTS, frozen_comparisons, frozen_verdict, result, rows, training_log
from docs.generator.results import accuracy as accuracy_of
from export.reduced import Reduced
from release import own_folder, paired
from release.bundle import BUNDLED, SYSTEMS, summary
from release.hostile import fuzz
from release.hostile import report as hostile
from release.hostile.named import NAMED
from release.hostile.recipes import Recipe, digest
from release.referee_figures import conclusion, shown
from sgn.command import COMMANDS
from training.attacks.projected_gradient import ProjectedGradientAscent
from training.attacks.rows import RowId
from training.attacks.views import held_view
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data.batches import to_float
from training.data.loading import load_pictures
from training.reproduce.tables import Line, columns, markdown

MAIN, LONGER = "bundled/self-gradient", "bundled/longer"
REPORTS = [
    *(f"bundled/{name}" for name in SYSTEMS),
    *(f"tried/{path.stem}" for path in RESULTS.glob("tried/wrn-*.json")),
]


@pytest.fixture(scope="module")
def figures():
    return json.loads((BUNDLED / "model.json").read_text())


def test_model_json_follows_from_the_reports(figures):
    assert figures == json.loads(json.dumps(summary()))


def test_the_readme_shows_model_json(figures):
    """Otherwise run `python -m docs.generator.readme`."""
    assert section(README.read_text()) == five_rows(figures)


def test_the_readme_gets_a_column_for_auto_once_its_cost_is_measured(figures):
    engines = {"batches": {"1": {AUTO_CHOSEN: {"best_ms": 1.23, "ratio_of_best": 0.87}}}}
    attacked = {
        "pictures": 100,
        "rows": [
            {"id": {"state": "auto", "family": "clean"}, "title": "clean", "left": 0.743},
            {"id": {"state": "auto", "family": "pgd", "steps": 20}, "title": "PGD-20", "left": 0.4},
        ],
        "lowest": {"auto": 0.365},
    }
    assert auto_column(figures, {"attacked": attacked}, None) is None
    assert auto_column(figures, {"attacked": attacked}, {"batches": {"8": {}}}) is None
    cost = f"{figures['training_core_minutes']['self-gradient']:.0f}; 1.2 (0.9)"
    assert auto_column(figures, {"attacked": attacked}, engines) == ("-", "-", "-", "-", cost), "of fewer pictures"
    attacked["pictures"] = figures["setting"]["pictures"]
    assert auto_column(figures, {"attacked": attacked}, engines) == ("74.3", "40.0", "-", "**36.5**", cost)


@pytest.mark.parametrize("name", REPORTS)
def test_reports_add_up_and_say_what_they_were_measured_on(name):
    report = result(name)
    setting = report["setting"]
    assert setting["pictures"] >= 1000
    assert setting["split"] == "test"
    assert setting["eps"] == pytest.approx(8 / 255)
    assert setting["data"] == "CIFAR-10 (JPEG copy)"
    assert report["about"]["command"].startswith("python -m training.evaluate")
    assert report["about"]["git_commit"]
    for row in rows(name).values():
        assert len(row["withstood"]) == setting["pictures"]
        assert row["title"] == RowId.from_dict(row["id"]).title
        assert row["accuracy"] == pytest.approx(row["withstood"].count("1") / setting["pictures"], abs=1e-4)
    for state, lowest in report["lowest"].items():
        marks = [row["withstood"] for label, row in rows(name).items() if label.startswith(f"{state}: ")]
        withstood = sum(all(mark == "1" for mark in picture) for picture in zip(*marks, strict=True))
        assert lowest == pytest.approx(withstood / setting["pictures"], abs=1e-4)


def test_reports_hold_every_attack_of_the_protocol():
    paper = ["clean", "FGSM", *(f"{attack}-{steps}" for attack in ("PGD", "CW") for steps in (10, 20, 40, 100))]
    quick = ["clean", "FGSM", "PGD-10", "PGD-20", "CW-20"]
    cascade = ["APGD-CE", "APGD-T", "FAB-T"]
    betas = (5, 20, 100)
    through = ("PGD-20", "CW-20", "APGD-CE", "APGD-T")
    adaptive = [
        *(f"{attack}, smooth surrogate, beta {beta}" for attack in through for beta in betas),
        "CW-20, smooth surrogate averaged over noise, beta 400",
        *(f"CW-20, straight-through block, beta {beta}" for beta in betas),
        "CW-20, through both passes",
        "CW-20, gradients averaged over noise",
    ]
    more = ["CW-20, restarts 1 to 10", "CW-20, restarts 11 to 20", "CW-200, on what withstood CW-100"]
    other = ["CW-20, transfer from block off", "CW-100 to the end, transfer from block off", "random noise, 100 draws"]
    other += ["CW-100 to the end, transfer from pgd wrn-16-2", "Square"]
    carried = [f"CW-100 to the end, smooth surrogate, beta {beta}, transfer from the checkpoint" for beta in betas]
    attacks = {
        "block on": paper + adaptive + more + other + cascade,
        "block off": [*paper, *cascade, "Square"],
        "exported graph": [
            "clean",
            "random noise, 100 draws",
            "CW-100 to the end, transfer from the checkpoint",
            *carried,
        ],
    }
    assert set(rows("bundled/self-gradient")) == {
        f"{state}: {attack}" for state, names in attacks.items() for attack in names
    }
    assert set(rows("bundled/longer")) >= {f"block off: {attack}" for attack in quick + cascade}


def test_the_bundled_files_belong_together(figures):
    checkpoint = hashlib.sha256((BUNDLED / "model.safetensors").read_bytes()).hexdigest()
    session = onnxruntime.InferenceSession(BUNDLED / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert figures["setting"]["checkpoint_sha256"] == metadata["checkpoint_sha256"] == checkpoint
    assert figures["graph_sha256"] == hashlib.sha256((BUNDLED / "model.onnx").read_bytes()).hexdigest()
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 12_000_000


def test_the_block_is_alive(figures):
    effect = figures["block_effect"]
    assert effect["correction_mean_abs"] > 0.5 / 255
    assert effect["correction_change"] > 0.05
    assert effect["answers_changed"] > 0
    assert all(row["block_correction_mean_abs"] > 0.5 / 255 for row in figures["block_over_training"])


@pytest.mark.thorough
def test_the_figures_are_of_this_model(figures, project_root, tmp_path):
    """Measured anew on the 100 example pictures; the margins are four standard errors of so small a sample."""
    with (project_root / "examples" / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            folder = tmp_path / "test" / row["label"]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / row["filename"]).symlink_to(project_root / "examples" / row["filename"])
    pictures = load_pictures("image-folder", tmp_path, "test")
    model, info = load_checkpoint(Path(BUNDLED / "model.safetensors"))
    assert pictures.class_names == info.class_names
    # The judge uses this memory format too: it takes three quarters of the time.
    model.to(memory_format=torch.channels_last)
    images, labels = to_float(pictures.images).contiguous(memory_format=torch.channels_last), pictures.labels
    torch.manual_seed(0)
    attack = ProjectedGradientAscent(eps=8 / 255, steps=20, step_size=2 / 255)
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    left = images[right].contiguous(memory_format=torch.channels_last)  # the judge attacks no others either
    attacked = attack.perturb(held_view(model), left, labels[right])
    with torch.no_grad():
        withstood = model(attacked).argmax(dim=1) == labels[right]
    measured = {
        "block on: clean": right.float().mean().item(),
        "block on: PGD-20": withstood.sum().item() / len(labels),
    }
    for name, accuracy in measured.items():
        claimed = accuracy_of(MAIN, name)
        assert abs(accuracy - claimed) < 4 * np.sqrt(claimed * (1 - claimed) / len(labels)), name


def test_the_block_does_not_help_as_readme_and_site_say():
    """Words that the figures must bear out: 'not statistically significant (p > 0.1)', 'likely too high'."""
    compared = result("paired")["comparisons"]
    assert compared == paired.comparisons()
    for name in ("block on against off", "block on against the plain network of equal time"):
        assert compared[name]["p"] > 0.1
    assert accuracy_of(LONGER, "block off: lowest") >= accuracy_of(MAIN, "block on: lowest")
    assert accuracy_of(LONGER, "block off: clean") > accuracy_of(MAIN, "block on: clean")
    assert result(MAIN)["robustness_likely_overestimated"]
    raised = [item["name"] for item in result(MAIN)["checklist"] if item["verdict"] == "raised"]
    assert raised == ["gradient correlation"]
    assert not result("tried/wrn-10-2-silu")["robustness_likely_overestimated"]


def test_training_relied_on_the_block_as_the_site_says():
    row = result("paired")["comparisons"]["block off against the plain network that it started from"]
    assert row["won"] < row["lost"]
    assert row["p"] < 0.01


def test_the_block_alone_was_trained_over_the_bundled_backbone(tmp_path):
    """The start of that training is made again, to the last bit, from the bundled checkpoint."""
    training = result("frozen-backbone")["about"]["training"]
    for option in ("--freeze-backbone", "--init-from runs/bundled-off/model.safetensors", "--method self-gradient"):
        assert option in training["command"]
    model, info = load_checkpoint(BUNDLED / "model.safetensors")
    backbone = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("block.")}
    save_checkpoint(tmp_path / "start", backbone, dataclasses.replace(info, block=None, method="pgd"))
    assert hashlib.sha256((tmp_path / "start").read_bytes()).hexdigest() == training["start_checkpoint_sha256"]
    log = training_log("frozen-backbone")
    assert len(log) == int(training["command"].partition("--epochs ")[2].split()[0])
    measured = result("frozen-backbone")["about"]["core_seconds_of_training"]
    assert measured == pytest.approx(float(log[-1]["core_seconds"]), rel=1e-5)


def test_the_block_alone_met_apgd_too_and_its_page_says_what_the_p_values_do():
    labels = rows("frozen-backbone")
    assert {f"block {state}: {attack}" for state in ("on", "off") for attack in ("APGD-CE", "APGD-T")} <= labels.keys()
    compared = frozen_comparisons()
    assert [title for title, _ in compared][-1] == "lowest of these, APGD-CE and APGD-T"
    assert [row["accuracy"] for _, row in compared][-1] == pytest.approx(
        [result("frozen-backbone")["lowest"][state] for state in ("block on", "block off")], abs=1e-4
    )
    assert all(row["p"] > 0.1 for _, row in compared)
    assert figure("frozen.verdict").endswith("gains nothing here: the differences are within chance (p > 0.1).")
    significant = [(title, {**row, "won": 3, "lost": 30, "p": 0.001}) for title, row in compared[-1:]]
    assert frozen_verdict(compared[:1] + significant).endswith("APGD-CE and APGD-T: worse with it.")


def test_the_way_from_a_folder_took_under_half_an_hour_of_two_cores():
    measured = result("own_folder")
    assert measured["cores"] == 2
    assert measured["size"]["arch"] == "timm:resnet18"
    assert measured["size"]["image_size"] == 128
    assert measured["ways"].keys() == own_folder.WAYS.keys()
    for name, way in measured["ways"].items():
        steps = {step["name"]: step for step in way["steps"]}
        assert steps.keys() == {"train", "judge", "export", "serve and classify"}
        assert all(option in steps["train"]["command"] for option in own_folder.WAYS[name][1])
        assert sum(step["seconds"] for step in way["steps"]) < 1800
        assert way["served"]["pictures"] == way["judged_pictures"] > 0


def test_the_surrogate_takes_what_the_site_says_of_what_autoattack_left():
    marks = {label.removeprefix("block on: "): row["withstood"] for label, row in rows(MAIN).items()}
    families = ("clean", "APGD-CE", "APGD-T", "FAB-T", "Square")
    left = {number for number, _ in enumerate(marks["clean"]) if all(marks[name][number] == "1" for name in families)}

    def taken(attack: str, beta: int) -> set[int]:
        return {number for number in left if marks[f"{attack}, smooth surrogate, beta {beta}"][number] == "0"}

    six = taken("APGD-T", 100)
    assert len(six) == 6
    assert taken("APGD-CE", 100) < six
    assert len(taken("APGD-CE", 100)) == 2
    assert len(taken("CW-20", 100) - six) == 1
    assert not any(taken(attack, beta) for attack in ("APGD-CE", "APGD-T", "CW-20") for beta in (5, 20))
    lowest = round(accuracy_of(MAIN, "block on: lowest") * len(marks["clean"]))
    assert len(left - six - taken("CW-20", 100)) == lowest, "nothing else takes any more"


def test_lower_precision_agrees_as_the_site_says(figures):
    precisions = result("precisions")
    assert precisions["checkpoint_sha256"] == figures["setting"]["checkpoint_sha256"]
    lowest = {}
    for name, row in precisions["rows"].items():
        assert all(item["pictures"] >= 1000 for item in row["agreement"].values())
        lowest[name] = min(item[kind] for item in row["agreement"].values() for kind in ("clean", "attacked"))
    assert all(share >= Reduced.min_agreement for share in lowest.values()), lowest


def test_the_engines_are_as_fast_as_the_site_says():
    engines = result("engines")
    assert {name: list(measured["batches"]) for name, measured in engines["architectures"].items()} == {
        "wrn-16-2": ["1", "8", "32"],
        "wrn-28-10": ["1", "8", "32"],
    }
    assert engines["repeats"] >= 15
    batches = [row for measured in engines["architectures"].values() for row in measured["batches"].values()]
    ours, fastest = "ours, ONNX Runtime", "ours, OpenVINO bf16"
    assert all(row[ours]["ratio_of_best"] <= 1.05 * row["ours, OpenVINO f32"]["ratio_of_best"] for row in batches)
    assert all(
        row[fastest]["best_ms"] == min(row[name]["best_ms"] for name in row if "block off" not in name)
        for row in batches
    )
    assert all(row["block off: ours, ONNX Runtime"]["ratio_of_best"] <= 1.05 for row in batches)


def test_the_service_is_as_fast_as_the_site_says():
    measured = result("service")
    assert service.share_of_engine(measured) >= 0.55
    ours, *others = (measured["services"][service.SYSTEMS[name]] for name in ("ours", "fastapi", "litserve"))
    assert all(ours["32"]["requests_per_second"] > other["32"]["requests_per_second"] for other in others)
    assert ours["8"]["p99_ms"] <= 3 * ours["8"]["p50_ms"]
    assert ours["128"]["statuses"].keys() == {"200", "503"}
    assert ours["128"]["refused_p99_ms"] < ours["128"]["p50_ms"]
    assert ours["128"]["p99_ms"] < 1.2 * ours["32"]["p99_ms"]


@pytest.mark.thorough
def test_every_hostile_file_is_counted_and_can_be_made_again():
    measured = result("hostile")
    listed = fuzz.read_list(RESULTS / "hostile" / "sent.jsonl.xz")
    assert {name: row["files"] for name, row in measured["formats"].items()} == {
        name: len(recipes) for name, recipes in listed.items()
    }
    assert measured["files"] == sum(map(len, listed.values()))
    for row in measured["formats"].values():
        assert row["files"] == sum(row["statuses"].values())
    if measured["versions"]["pillow"] == version("pillow"):  # another encoder makes other seeds
        for worst in (row["worst_megabytes"] for row in measured["formats"].values()):
            if "recipe" in worst and "file" not in worst["recipe"].split(",")[0]:
                assert digest(Recipe.parse(worst["recipe"]).build()) == worst["digest"]


def test_the_hostile_files_one_at_a_time_are_the_same_and_none_got_a_5xx():
    alone = result("hostile/one-at-a-time")
    assert alone["in_flight"] == 1
    assert {name: row["files"] for name, row in alone["formats"].items()} == {
        name: row["files"] for name, row in result("hostile")["formats"].items()
    }
    assert sum(row["busy"] + row["faults"] for row in alone["formats"].values()) == 0
    assert hostile.exceeded(alone) == []


def test_the_hostile_files_stay_within_the_bounds():
    """The bounds are of 2,000 files of each format, of many at a time, and of inputs that once cost too much."""
    measured = result("hostile")
    assert hostile.exceeded(measured) == []
    assert measured["cores"] == 2
    for row in measured["formats"].values():
        assert row["files"] >= 2000
        assert row["together"].keys() == set(hostile.TOGETHER)
    for side in ("before", "now"):
        assert list(measured["named"][side]["rows"]) == [one.name for one in NAMED]
    assert measured["named"]["before"]["git_commit"].startswith("88872b8")


def test_the_service_is_no_slower_than_before_its_cage():
    measured = result("throughput")
    assert measured["before"].startswith("88872b8")
    assert measured["connections"].keys() == {"1", "8", "32"}
    for row in measured["connections"].values():
        assert len(row["rounds"]) >= 3
        assert row["ratios"]["now, ONNX Runtime"]["median"] >= 0.95


def test_no_command_takes_long_to_start():
    measured = result("start_up")
    assert {f"sgn {name} --help" for name in COMMANDS} < set(measured["seconds"])
    assert sum("--help" not in name for name in measured["seconds"]) >= 3, "refusals"
    assert {name: seconds for name, seconds in measured["seconds"].items() if seconds >= 1.5} == {}


def test_a_robustbench_file_is_served_by_two_commands():
    measured = result("own_weights")
    assert measured["architecture"] == "wrn-28-10"
    assert measured["parameters"] > 36_000_000
    *commands, served = (step["command"].split()[1] for step in measured["steps"])
    assert (commands, served) == (["convert", "export"], "serve")
    assert measured["classes_answered"] > 1
    assert measured["same_class"] == measured["same_probabilities"] == measured["pictures"] >= 10
    assert measured["self_gradient"] == [False]


def test_a_clone_in_an_empty_environment_serves_ones_own_folder():
    measured = result("install")
    assert [step["name"] for step in measured["steps"]] == [
        *("git clone", "make serve", "install the rest", "train", "judge", "export", "serve"),
    ]
    assert measured["labels"]["bundled"] == "ship"
    assert measured["labels"]["own"] in own_folder.CLASSES
    # The commands are those of the README.
    text, typed = README.read_text(), {step["name"]: step["command"] for step in measured["steps"]}
    assert typed["make serve"] == "make serve"
    assert typed["install the rest"].replace("python -m ", "").replace("-q ", "") in text
    assert typed["train"].partition(" wrn")[0] in text
    for name in ("judge", "export", "serve"):
        assert typed[name].partition(" --attacks")[0] in text
    assert "+changes" not in measured["git_commit"]


def test_autos_rows_are_of_the_batches_that_its_command_gives():
    command = result("auto")["command"].split()
    assert result("auto.rows")["setting"]["batch_size"] == int(command[command.index("--batch") + 1])


def test_kills_changed_no_row():
    measured = result("classify_kills")
    assert measured["kills"] >= 100
    assert measured["equal"] == measured["runs"] >= 3
    assert set(measured["formats"]) == {".parquet", ".csv", ".jsonl"}
    assert measured["errors"] >= 30, "hostile files were among the inputs"
    assert {"before the first part", "between parts", "after the last part"} <= set(measured["states"])


@pytest.mark.parametrize(
    ("name", "small", "onnxruntime"),
    [  # the aim of 0.95 is missed on OpenVINO in bfloat16, as the page says
        ("classify", 0.9, 0.95),
        ("classify-amx", 0.75, 0.9),
    ],
)
def test_classify_was_measured_against_its_parts(name, small, onnxruntime):
    measured = result(name)
    assert ("amx_bf16" in measured["processor"]) == (name == "classify-amx")
    assert measured["small"]["ratio"] >= small
    assert measured["small_onnxruntime"]["ratio"] >= onnxruntime
    assert measured["large"]["ratio"] >= 0.8
    assert min(len(measured[part]["ratios"]) for part in ("small", "small_onnxruntime", "large")) >= 3
    assert measured["memory"]["links"] >= 200_000
    assert measured["memory"]["growth_mb"] < 20, "the memory is flat"
    assert "+changes" not in measured["git_commit"]


def test_judging_on_ray_was_measured_as_the_page_says():
    measured = result("judging_on_ray")
    assert measured["setting"]["pictures"] == 200
    assert measured["setting"]["attacks"] == ["quick", "apgd-ce", "apgd-t"]
    assert all(len(times) >= 3 for times in measured["seconds"].values())
    assert measured["same_answers"] is True
    assert len({digest for digests in measured["answers"].values() for digest in digests}) == 1
    ratios = measured["ratios"]
    assert ratios == judging_on_ray.summary(measured["seconds"])
    assert ratios["overhead of one worker"] < judging_on_ray.MOST_OVERHEAD
    assert ratios["speed-up"] > 0.9 * ratios["speed-up of plain processes"]
    assert ratios["speed-up"] >= judging_on_ray.AIM
    assert ratios["speed-up over one worker"] >= judging_on_ray.AIM
    assert "+changes" not in measured["git_commit"]


@pytest.mark.parametrize(("won", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (9, 1, 22 / 1024)])
def test_the_sign_test_is_exact(won, lost, p):
    assert paired.sign_test(won, lost) == pytest.approx(p)


def test_a_comparison_counts_what_one_withstood_and_the_other_did_not():
    row = paired.compare([True, True, False, True], [True, False, False, False])
    assert (row["won"], row["lost"], row["accuracy"]) == (2, 0, [0.75, 0.25])


def report_of(withstood: dict[RowId, str]) -> str:
    entries = [
        {"id": row.as_dict(), "withstood": marks, "attack": {}, "core_seconds": None, "not_finite": 0}
        for row, marks in withstood.items()
    ]
    return json.dumps({"setting": {}, "rows": entries})


def test_a_comparison_leaves_out_what_was_run_on_one_side_only(tmp_path):
    on, off = (RowId("block on", "clean"), RowId("block off", "clean"))
    surrogate = RowId("block on", "cw", steps=20, view="smooth", beta=20.0)
    fab = RowId("block off", "fab-t")
    own = {on: "111", off: "111", surrogate: "011", fab: "001"}
    (tmp_path / "bundled").mkdir()
    (tmp_path / f"{MAIN}.json").write_text(report_of(own))
    for name in ("start", "longer"):
        (tmp_path / "bundled" / f"{name}.json").write_text(report_of({off: "111", fab: "101"}))
    compared = paired.comparisons(folder=tmp_path)
    against_off = compared["block on against off"]
    assert (against_off["won"], against_off["lost"], against_off["left_out"]) == (0, 1, ["FAB-T"])
    off_against_start = compared["block off against the plain network that it started from"]
    assert (off_against_start["won"], off_against_start["lost"], off_against_start["left_out"]) == (0, 1, [])


def test_two_networks_with_their_blocks_on_are_compared_on_the_attacks_that_both_had(tmp_path):
    on, off = (RowId("block on", "clean"), RowId("block off", "clean"))
    shared, sharper = (RowId("block on", "cw", steps=20, view="smooth", beta=beta) for beta in (20.0, 100.0))
    for name, rows_of in {
        "one": {on: "1111", shared: "1011", sharper: "0001"},
        "other": {on: "1111", shared: "1101"},
        "plain": {off: "1111"},
    }.items():
        (tmp_path / f"{name}.json").write_text(report_of(rows_of))
    one: paired.Side = ("one", "block on")
    wanted = {
        "both on": paired.Comparison(one, ("other", "block on")),
        "plain": paired.Comparison(one, ("plain", "block off")),
        "plain, shared": paired.Comparison(one, ("plain", "block off"), counted="shared"),
    }
    found = {name: (row["won"], row["lost"]) for name, row in paired.comparisons(wanted, tmp_path).items()}
    assert found == {"both on": (1, 1), "plain": (0, 3), "plain, shared": (0, 0)}


REPRODUCED = sorted((Path(__file__).parents[1] / "results" / "reproduce").glob("*/table*.json"))


@pytest.mark.parametrize("path", REPRODUCED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_reproduced_tables_follow_from_their_rows(path):
    content = json.loads(path.read_text())
    fields = [field.name for field in dataclasses.fields(Line)]
    lines = [Line(**{name: row[name] for name in fields}) for row in content["rows"]]
    assert path.with_suffix(".md").read_text().startswith(markdown(lines, columns(content["target"])) + "\n")
    for row in content["rows"]:
        assert row["training"].startswith("python -m training ")
        assert row["about"]["git_commit"]
        assert not row["about"]["git_commit"].endswith("+changes")
        assert row["setting"]["pictures"] >= 1000


def test_the_recipes_of_a_gpu_rank_as_the_site_says():
    short, long = gpu.recipes(60), gpu.recipes(180)
    assert {recipe["epochs"] for recipe in long.values()} == {33}
    assert max(short, key=lambda name: short[name]["lowest"]) == "prior-ema"
    assert max(recipe["lowest"] for recipe in long.values()) == long["prior-ema"]["lowest"]

    def p_value(recipes: dict, name: str) -> float:
        rows = (gpu.recipe_row(recipes[one], "apgd-t") for one in (name, "uniform-ema"))
        ours, uniform = ([mark == "1" for mark in row["right"]] for row in rows)
        return paired.compare(ours, uniform)["p"]

    assert p_value(short, "prior-ema") > 0.05 > p_value(long, "prior-ema")
    assert all(p_value(short, name) < 0.01 for name in ("trades-1", "nuat-16"))
    assert long["prior-ema-smoothing"]["lowest"] == long["prior-ema"]["lowest"]
    with pytest.raises(KeyError, match="no recipes of 7 minutes"):
        gpu.recipes(7)


def test_the_most_robust_recipe_gains_nothing_by_a_block_as_readme_and_site_say():
    """Words that the figures must bear out: what is significant, what is not, and which attacks were run."""
    compared = result("paired")["of_the_recipe"]
    assert compared == paired.comparisons(paired.OF_THE_RECIPE)
    against_plain = {name: row for name, row in compared.items() if name.endswith(", against plain")}
    assert len(against_plain) == 3
    assert all(row["won"] < row["lost"] for row in against_plain.values())
    assert against_plain["trained whole, block on, against plain"]["p"] < 0.01
    assert 0.01 < against_plain["block alone, block on, against plain"]["p"] < 0.05
    assert compared["the same, on the attacks that both had"]["p"] > 0.1
    shared = compared["trained whole, on the attacks that both had"]
    assert shared["won"] < shared["lost"]
    assert shared["p"] < 0.01
    assert compared["block alone, block off, against plain"]["p"] < 0.05
    assert 0.01 < compared["trained whole, block on, against the bundled network, block on"]["p"] < 0.05
    assert (
        compared["plain against the bundled plain network, clean"]["won"]
        < compared["plain against the bundled plain network, clean"]["lost"]
    )
    for name in ("trained whole, block on against off", "block alone, block on against off"):
        assert compared[name]["p"] > 0.1
    for name in ("plain against the bundled plain network", "plain against the bundled network, block on"):
        assert compared[name]["won"] > compared[name]["lost"]
        assert compared[name]["p"] < 0.01


def test_the_block_alone_over_the_most_robust_recipe_beats_the_bundled_network_as_the_site_says():
    compared = result("paired")["of_the_recipe"]
    for name, bound in (
        ("block alone, block on, against the bundled network, block on", 0.01),
        ("block alone, block on, against the bundled plain network", 0.05),
    ):
        assert compared[name]["won"] > compared[name]["lost"]
        assert compared[name]["p"] < bound
    clean = compared["the same, clean accuracy"]
    assert clean["won"] < clean["lost"]
    assert clean["p"] > 0.1
    raised = {
        name: [item["name"] for item in result(f"gpu_winner/{name}")["checklist"] if item["verdict"] == "raised"]
        for name in ("plain", "block", "frozen")
    }
    assert raised == {
        "plain": ["batch dependence"],
        "block": ["batch dependence"],
        "frozen": ["gradient correlation", "batch dependence"],
    }


def test_the_networks_of_the_most_robust_recipe_had_every_attack_on_the_bundled_ones_pictures():
    bundled, plain = (result(name) for name in (MAIN, "gpu_winner/plain"))
    share, longer = (100 * one["lowest"]["block off"] for one in (plain, result(LONGER)))
    clean, clean_longer = (100 * rows(name)["block off: clean"]["accuracy"] for name in ("gpu_winner/plain", LONGER))
    assert (
        f": {share:.1f} % instead of the {longer:.1f} % of plain training for as many epochs (p < 0.01), "
        f"with {clean:.1f} % clean instead of {clean_longer:.1f} %."
    ) in README.read_text()
    epochs = sum(int(training_log(f"bundled/{name}")[-1]["epoch"]) for name in ("first", "start", "longer"))
    assert epochs == gpu.recipes(180)["prior-ema"]["epochs"]
    cascade = {"APGD-CE", "APGD-T", "FAB-T", "Square"}
    surrogate = {f"{attack}, smooth surrogate, beta 20" for attack in ("CW-20", "PGD-20", "APGD-CE", "APGD-T")} | {
        "CW-20, transfer from block off",
        "CW-100 to the end, transfer from block off",
        "CW-20, through both passes",
        "CW-20, straight-through block, beta 20",
        "CW-20, smooth surrogate averaged over noise, beta 400",
    }
    for name in ("plain", "block", "frozen"):
        report = result(f"gpu_winner/{name}")
        states = ("block off",) if name == "plain" else ("block off", "block on")
        wanted = {(state, title) for state in states for title in cascade}
        wanted |= set() if name == "plain" else {("block on", title) for title in surrogate}
        assert {(row["id"]["state"], row["title"]) for row in report["rows"]} >= wanted
        assert report["setting"]["pictures_sha256"] == bundled["setting"]["pictures_sha256"]
        network = RESULTS / "gpu_winner" / f"{name}.safetensors"
        assert hashlib.sha256(network.read_bytes()).hexdigest() == report["setting"]["checkpoint_sha256"]
        assert {about["device"] for about in (report["about"], *(one["about"] for one in report["earlier"]))} == {
            "NVIDIA H200"
        }


def test_no_defence_of_the_referee_gains_anything_as_the_site_says():
    found = result("referee")
    rows_of = {row["name"]: row for row in found["rows"]}
    assert list(rows_of) == ["static", "self-gradient", "anti-adversary", "energy-step", "noise-average"]
    assert conclusion(found["rows"]).startswith("None of self-gradient, anti-adversary, energy-step, noise-average ")
    assert (RESULTS / "referee.md").read_text().startswith(f"# The referee\n\n{shown(found)}\n")
    assert found["setting"]["checkpoint_sha256"] == result(MAIN)["setting"]["checkpoint_sha256"]
    for name, row in rows_of.items():
        assert {"APGD-CE", "APGD-T", "FAB-T", "Square"} <= {one["title"] for one in row["by_attack"]}
        lacks = {
            "self-gradient": ["APGD-T, transfer from block off"],
            "energy-step": ["APGD-CE, smooth surrogate, beta 20", "APGD-T, smooth surrogate, beta 20"],
        }
        assert row["missing"] == lacks.get(name, [])
        cpu = name in ("static", "self-gradient")
        assert row["devices"] == (["cpu"] if cpu else ["NVIDIA H200"])
        kinds = ("claimed", "adaptive") if name != "static" else ("claimed",)
        assert row["lowest"]["accuracy"] <= min(row[kind]["accuracy"] for kind in kinds)
    layer = rows_of["anti-adversary"]
    assert layer["claimed"]["accuracy"] > rows_of["static"]["claimed"]["accuracy"] + 0.1
    assert layer["against_static"]["lowest"]["won"] < layer["against_static"]["lowest"]["lost"]
    assert layer["against_static"]["lowest"]["p"] < 0.05


def test_the_referees_rows_of_the_bundled_network_are_those_of_its_report():
    """The first pictures of the report are the referee's, and the costly rows are taken from it."""
    found = {row["name"]: row for row in result("referee")["rows"]}
    count = result("referee")["setting"]["pictures"]
    for name, state in (("static", "block off"), ("self-gradient", "block on")):
        by_id = {RowId.from_dict(row["id"]): row for row in result(MAIN)["rows"]}
        for one in found[name]["by_attack"]:
            attack = RowId.from_dict(one["id"])
            assert attack.state == state
            assert attack.title == one["title"]
            withstood = by_id[attack]["withstood"][:count]
            assert one["accuracy"] == pytest.approx(withstood.count("1") / count, abs=1e-4), attack
