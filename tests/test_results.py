"""Every figure that the README and the bundled model show follows from the committed results."""

import csv
import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks import precisions
from benchmarks.engines import command as engines
from benchmarks.service import command as service
from export.reduced import Reduced
from release import paired
from release.bundle import BEGIN, BUNDLED, END, RESULTS, SYSTEMS, readme_table, summary
from training.attacks.pgd import ProjectedGradientAscent
from training.attacks.rows import RowId
from training.attacks.views import held_view
from training.checkpoint import load_checkpoint
from training.data.batches import to_float
from training.data.loading import load_pictures
from training.reproduce.tables import Line, columns, markdown


@pytest.fixture(scope="module")
def figures():
    return json.loads((BUNDLED / "model.json").read_text())


def test_model_json_follows_from_the_reports(figures):
    assert figures == json.loads(json.dumps(summary()))


def test_the_readme_shows_model_json(figures, project_root):
    text = (project_root / "README.md").read_text()
    shown = text.split(BEGIN)[1].split(END)[0].strip()
    assert shown == readme_table(figures)


@pytest.mark.parametrize("name", SYSTEMS)
def test_reports_add_up_and_say_what_they_were_measured_on(name):
    report = json.loads((RESULTS / f"{name}.json").read_text())
    setting = report["setting"]
    assert setting["pictures"] >= 1000
    assert setting["split"] == "test"
    assert setting["eps"] == pytest.approx(8 / 255)
    assert setting["data"] == "CIFAR-10 (JPEG copy)"
    assert report["about"]["command"].startswith("python -m training.evaluate")
    assert report["about"]["git_commit"]
    for row in report["rows"]:
        bits = row["withstood"]
        assert len(bits) == setting["pictures"]
        assert row["accuracy"] == pytest.approx(bits.count("1") / len(bits), abs=1e-4)
        assert row["title"] == RowId.from_dict(row["id"]).title
    for state, lowest in report["lowest"].items():
        rows = [row["withstood"] for row in report["rows"] if row["id"]["state"] == state]
        withstood = sum(all(bit == "1" for bit in picture) for picture in zip(*rows, strict=True))
        assert lowest == pytest.approx(withstood / setting["pictures"], abs=1e-4)


def labels(name):
    return {
        f"{row['id']['state']}: {row['title']}" for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    }


def test_reports_hold_every_attack_of_the_protocol():
    rows = labels("self-gradient")
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
    assert rows == {f"{state}: {attack}" for state, names in attacks.items() for attack in names}
    assert labels("longer") >= {f"block off: {attack}" for attack in quick + cascade}


def test_the_bundled_files_belong_together(figures):
    checkpoint = hashlib.sha256((BUNDLED / "model.safetensors").read_bytes()).hexdigest()
    session = onnxruntime.InferenceSession(BUNDLED / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert figures["checkpoint_sha256"] == metadata["checkpoint_sha256"] == checkpoint
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 12_000_000


def test_the_block_is_alive(figures):
    effect = figures["block_effect"]
    assert effect["correction_mean_abs"] > 0.5 / 255
    assert effect["correction_change"] > 0.05
    assert effect["answers_changed"] > 0
    assert all(row["block_correction_mean_abs"] > 0.5 / 255 for row in figures["block_over_training"])


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
    images, labels = to_float(pictures.images), pictures.labels
    torch.manual_seed(0)
    attack = ProjectedGradientAscent(eps=8 / 255, steps=20, step_size=2 / 255)
    attacked = attack.perturb(held_view(model), images, labels)
    with torch.no_grad():
        measured = {
            RowId("block on", "clean"): (model(images).argmax(dim=1) == labels).float().mean().item(),
            RowId("block on", "pgd", 20): (model(attacked).argmax(dim=1) == labels).float().mean().item(),
        }
    claims = {RowId.from_dict(row["id"]): row["accuracy"] for row in figures["rows"]}
    for row, accuracy in measured.items():
        claimed = claims[row]
        assert abs(accuracy - claimed) < 4 * np.sqrt(claimed * (1 - claimed) / len(labels)), row


def test_the_readme_shows_what_was_benchmarked(project_root):
    text = (project_root / "README.md").read_text()
    cost = json.loads((project_root / "results" / "block_cost.json").read_text())
    assert (
        f"takes {cost['load_ms']['first'] / 1000:.2f} s the first time, then {cost['load_ms']['median'] / 1000:.2f} s"
        in text
    )
    for batch, latency in cost["latency"].items():
        figures = (latency["block_on_ms"], latency["block_off_ms"], latency["ratio"])
        assert f"| {batch} | {' | '.join(f'{figure:.1f}' for figure in figures)} |" in text
    cost = json.loads((project_root / "results" / "training_cost.json").read_text())
    for name, row in cost["methods"].items():
        assert f"| {name} | {row['images_per_second']} | {row['ratio_to_pgd10']:.3f} |" in text
    assert f"about {cost['times_cheaper_than_pgd10']:.1f} times remain" in text
    assert f"is {1 / cost['methods']['adversarial, one step']['ratio_to_pgd10']:.1f} times cheaper" in text
    attacks = json.loads((project_root / "results" / "disagreement.json").read_text())["attacks"]
    area = {name: row["area_under_roc"] for name, row in attacks.items()}
    of_successes = {name: row["successful_only"]["area_under_roc"] for name, row in attacks.items()}
    words = " ".join(text.split())
    assert f"{area['PGD-20']:.2f}, where 0.5 is chance, and AutoAttack's with {area['AutoAttack']:.2f}" in words
    assert f"alone: {of_successes['PGD-20']:.2f} and {of_successes['AutoAttack']:.2f}" in words
    assert f"disagree less than clean ones: {area['knowing attacker']:.2f}" in words
    of_all = max(1.96 * area_standard_error(row["area_under_roc"], row["pictures"], 100) for row in attacks.values())
    few = [attacks[name]["successful_only"] for name in ("PGD-20", "AutoAttack")]
    of_few = max(1.96 * area_standard_error(row["area_under_roc"], row["pictures"], 100) for row in few)
    assert f"The 100 example pictures, so uncertain by about {of_all:.2f}, of the successes {of_few:.2f}" in words


def area_standard_error(area, attacked, clean):
    """Of so many attacked and clean pictures. Source: Hanley and McNeil (1982)."""
    of_attacked, of_clean = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (attacked - 1) * (of_attacked - area**2) + (clean - 1) * (of_clean - area**2)
    return math.sqrt(spread / (attacked * clean))


def test_the_documents_show_how_far_reduced_precision_agrees(project_root, figures):
    result = json.loads((project_root / "results" / "precisions.json").read_text())
    assert result["checkpoint_sha256"] == figures["checkpoint_sha256"]
    assert precisions.table(result["rows"]) in (project_root / "docs" / "export.md").read_text()
    lowest = {}
    for name, row in result["rows"].items():
        assert all(item["pictures"] >= 1000 for item in row["agreement"].values())
        lowest[name] = min(item[kind] for item in row["agreement"].values() for kind in ("clean", "attacked"))
    assert all((share >= Reduced.min_agreement) == ("int8" not in name) for name, share in lowest.items()), lowest


def test_the_documents_show_the_engines_measured_speed(project_root):
    result = json.loads((project_root / "results" / "engines.json").read_text())
    guide = (project_root / "docs" / "export.md").read_text()
    assert engines.ratio_table(result["architectures"]) in guide
    assert {name: list(measured["batches"]) for name, measured in result["architectures"].items()} == {
        "wrn-16-2": ["1", "8", "32"],
        "wrn-28-10": ["1", "8", "32"],
    }
    assert result["repeats"] >= 15
    rows = [row for measured in result["architectures"].values() for row in measured["batches"].values()]
    ours, fastest = "ours, ONNX Runtime", "ours, OpenVINO bf16"
    assert all(row[ours]["ratio_of_best"] <= 1.05 * row["ours, OpenVINO f32"]["ratio_of_best"] for row in rows)
    assert all(
        row[fastest]["best_ms"] == min(row[name]["best_ms"] for name in row if "block off" not in name) for row in rows
    )
    assert all(row["block off: ours, ONNX Runtime"]["ratio_of_best"] <= 1.05 for row in rows)
    build = json.loads((project_root / "results" / "openvino_build.json").read_text())
    shares = [
        row[f"ours, ONNX Runtime's OpenVINO build {precision}"]["best_ms"]
        / row[f"ours, OpenVINO {precision}"]["best_ms"]
        for measured in build["architectures"].values()
        for row in measured["batches"].values()
        for precision in ("f32", "bf16")
    ]
    assert f"needs {min(shares):.2f} to {max(shares):.2f} of the time" in " ".join(guide.split())
    readme = " ".join((project_root / "README.md").read_text().split())
    wide = result["architectures"]["wrn-28-10"]["batches"].values()
    (low, high), (low_bf16, high_bf16) = (
        (min(ratios), max(ratios))
        for ratios in ([row[name]["ratio_of_best"] for row in wide] for name in (ours, fastest))
    )
    assert f"take {low:.2f} to {high:.2f} times a plain pass, and {low_bf16:.2f} to {high_bf16:.2f} times" in readme


def test_the_fused_block_saves_what_the_documents_say(project_root):
    result = json.loads((project_root / "results" / "fused.json").read_text())
    rows = result["architectures"]["wrn-16-2"]["batches"].values()
    shares = [row["ours --fused, ONNX Runtime"]["best_ms"] / row["ours, ONNX Runtime"]["best_ms"] for row in rows]
    guide = (project_root / "docs" / "export.md").read_text()
    assert f"with the kernel takes {min(shares):.2f} to {max(shares):.2f} of" in guide


def test_no_other_way_to_write_strided_gradients_saves_more_than_the_documents_say(project_root):
    batches = json.loads((project_root / "results" / "tried" / "strided_gradients.json").read_text())["batches"]
    saved = 1 - min(row["ratio_of_best"] for rows in batches.values() for row in rows.values())
    assert f"saves {saved:.0%} at most".replace("%", " %") in (project_root / "docs" / "export.md").read_text()


def test_the_service_is_as_fast_as_it_should_be(project_root):
    result = json.loads((project_root / "results" / "service.json").read_text())
    assert service.share_of_engine(result) >= 0.75
    ours, *others = (result["services"][name] for name in service.SYSTEMS.values())
    assert all(ours["32"]["requests_per_second"] > other["32"]["requests_per_second"] for other in others)
    assert ours["8"]["p99_ms"] <= 3 * ours["8"]["p50_ms"]
    assert ours["128"]["statuses"].keys() == {"200", "503"}
    assert ours["128"]["refused_p99_ms"] < ours["128"]["p50_ms"]
    assert ours["128"]["p99_ms"] < 1.1 * ours["32"]["p99_ms"]


def test_the_documents_show_the_services_measured_speed(project_root):
    result = json.loads((project_root / "results" / "service.json").read_text())
    guide = (project_root / "docs" / "service.md").read_text()
    assert service.table(result) in guide
    guide, readme = (" ".join(text.split()) for text in (guide, (project_root / "README.md").read_text()))
    ours, fastapi = (result["services"][service.SYSTEMS[name]] for name in ("ours", "fastapi"))
    share = f"{service.share_of_engine(result):.2f}"
    alone = result["engine_alone"]
    assert f"does {alone['1']:.0f}, {alone['8']:.0f} and {alone['32']:.0f} pictures a second" in guide
    assert f"the service reaches {share} of it" in guide
    statuses = ours["128"]["statuses"]
    assert f"{statuses['503'] / sum(statuses.values()):.0%}".replace("%", " %") + " of the answers are a 503" in guide
    assert f"99 % of those within {math.ceil(ours['128']['refused_p99_ms'])} ms" in guide
    assert f"get {ours['32']['requests_per_second']:.0f} answers a second, block on: {share} of what" in readme
    assert f"gives {fastapi['32']['requests_per_second']:.0f} (" in readme


def test_the_readme_compares_as_the_reports_do(project_root):
    compared = paired.comparisons()
    assert json.loads((project_root / "results" / "paired.json").read_text())["comparisons"] == compared
    text = " ".join((project_root / "README.md").read_text().split())
    for row in compared.values():
        assert paired.in_words(row) in text


def test_the_readme_answers_first_whether_the_block_helps(project_root, figures):
    answer = " ".join((project_root / "README.md").read_text().split("## How robust it is")[1].split())
    plain = figures["baselines"]["longer"]["headline"]["lowest accuracy per picture"]
    on, off = (figures["lowest"][f"block {state}"] for state in ("on", "off"))
    assert answer.startswith("**The block does not make the bundled network more robust**")
    assert f"{100 * on:.1f} % of 1,000 pictures withstand every attack, against {100 * plain:.1f} % of" in answer
    assert f"With its block off the same network withstands {100 * off:.1f} %" in answer
    compared = json.loads((project_root / "results" / "paired.json").read_text())["comparisons"]
    for name in ("block on against off", "block on against the plain network of equal time"):
        assert compared[name]["p"] > 0.05


@pytest.mark.parametrize(("won", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (9, 1, 22 / 1024)])
def test_the_sign_test_is_exact(won, lost, p):
    assert paired.sign_test(won, lost) == pytest.approx(p)


def test_a_comparison_counts_what_one_withstood_and_the_other_did_not():
    row = paired.compare([True, True, False, True], [True, False, False, False])
    assert (row["won"], row["lost"], row["accuracy"]) == (2, 0, [0.75, 0.25])


def test_a_comparison_leaves_out_what_was_run_on_one_side_only(tmp_path):
    def save(name, rows):
        entries = [
            {"id": row.as_dict(), "withstood": bits, "attack": {}, "core_seconds": None} for row, bits in rows.items()
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps({"setting": {"pictures": 3}, "rows": entries}))

    clean, fab = RowId("block off", "clean"), RowId("block off", "fab-t")
    surrogate = RowId("block on", "cw", 20, "smooth", 20.0)
    save("self-gradient", {RowId("block on", "clean"): "111", clean: "111", surrogate: "011", fab: "001"})
    for name in ("start", "longer"):
        save(name, {clean: "111", fab: "101"})
    compared = paired.comparisons(tmp_path)
    against_off = compared["block on against off"]
    assert (against_off["won"], against_off["lost"], against_off["left_out"]) == (0, 1, ["FAB-T"])
    off_against_start = compared["block off against the plain network that it started from"]
    assert (off_against_start["won"], off_against_start["lost"], off_against_start["left_out"]) == (0, 1, [])


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
