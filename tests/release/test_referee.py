"""The referee in miniature: every row is judged, saved as it goes and continued, and its figures are its answers'."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image

from release import referee
from release.paired import compare
from release.referee import main
from release.referee_figures import conclusion, shown
from release.referee_rows import CONTENDERS, DENOISER, DENOISER_STATIC, SELF_GRADIENT, STATIC
from tests.short_attacks import shorten_gradient_attacks
from tests.training.checkpoints import save_untrained, tiny_info
from tests.training.small_backbone import SmallBackbone
from training.attacks.auto_attack import GradientStage, Square
from training.attacks.registry import Context, build_attacks
from training.attacks.rows import CLEAN, RowFilter
from training.checkpoint import BlockConfig, load_checkpoint, save_checkpoint
from training.evaluate import measuring
from training.evaluate.measuring import measure_batch
from training.evaluate.report import FORMAT, saved_rows

CLASSES = ("a", "b", "c", "d", "e")
INFO = tiny_info(
    architecture="small",
    class_names=CLASSES,
    epsilon=2 / 255,
    image_size=(8, 8),
    block=BlockConfig(scale=8 / 255, gradient_scaling="rms"),
)


def short(attack):
    if isinstance(attack, GradientStage):
        return replace(attack, iterations=2)
    return replace(attack, queries=3) if isinstance(attack, Square) else attack


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint of a small network and test pictures; every attack takes few steps."""
    # The block's share of an answer's cost is as small as in a deep network: less than 1 %.
    monkeypatch.setattr("training.checkpoint.build_backbone", lambda _, classes, *__: SmallBackbone(classes, width=64))
    build = build_attacks
    monkeypatch.setattr(referee, "build_attacks", lambda *given: [short(attack) for attack in build(*given)])
    monkeypatch.setattr(referee, "GradientStage", partial(GradientStage, iterations=2))
    shorten_gradient_attacks(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    save_pictures(tmp_path / "data" / "test", save_untrained(tmp_path, INFO))
    return tmp_path


def save_pictures(folder, checkpoint):
    """Pictures of which the network gets most right, some of them by little."""
    model, info = load_checkpoint(checkpoint)
    images = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model.plain_logits(images.float() / 255)
        model.backbone.get_parameter("classifier.bias").sub_(logits.mean(dim=0))
        logits -= logits.mean(dim=0)
    save_checkpoint(checkpoint, model.state_dict(), info)
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        margins = 2 * logits[:, index] - logits.topk(2).values.sum(dim=1)
        best = margins.argsort(descending=True)
        for rank in (0, 1, len((margins > 0).nonzero()) - 1):
            picture = images[best[rank]].permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(picture).save(folder / name / f"{rank}.png")


def command(*more):
    """Return a command line with all pictures in a batch: the attacks' steps cost the same for one as for ten."""
    return ["--ckpt=model.safetensors", "--pictures=10", "--batch=10", "--beta", "5", "--out=.", *more]


def result(folder):
    return json.loads((folder / "referee.json").read_text())


@pytest.fixture
def denoiser(folder):
    """Another static network, as if it was trained for the denoiser."""
    (folder / "denoiser").mkdir()
    path = save_untrained(folder / "denoiser", replace(INFO, block=None, method="gradient-denoiser", epsilon=0.0))
    model, info = load_checkpoint(path)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    save_checkpoint(path, model.state_dict(), info)
    return path


@pytest.mark.thorough
def test_every_row_is_judged_and_the_figures_are_those_of_its_answers(folder, denoiser, capsys):
    denoisers = [f"--denoiser={denoiser}"]
    adaptive = ["--adaptive", "transfer", "transfer-apgd-t", "through-both", "smooth-cw"]
    assert main(command(*denoisers, *adaptive, "--batch=6")) == 0
    found = result(folder)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == list(CONTENDERS)
    assert found["checkpoints"].keys() == {row.checkpoint for row in CONTENDERS.values()}
    assert found["checkpoints"]["ckpt"] == found["setting"]["checkpoint_sha256"]
    assert rows[STATIC]["clean"]["accuracy"] == 1
    assert 0 < rows[STATIC]["lowest"]["accuracy"] < 1
    lowest = {}
    for name, row in rows.items():
        saved = saved_rows(json.loads((folder / "runs" / "referee" / f"{name}.json").read_text()))
        assert [one.as_dict() for one in saved] == [one["id"] for one in row["by_attack"]]
        assert [one.title for one in saved] == [one["title"] for one in row["by_attack"]] == found["attacks"][name]
        answers = torch.stack([one.right for one in saved.values()])
        lowest[name] = answers.all(dim=0).tolist()
        assert row["lowest"]["accuracy"] == pytest.approx(sum(lowest[name]) / 10)
        whole = [one.right for identity, one in saved.items() if identity.view == "held" and identity.family != "cw"]
        assert len(whole) == 5
        assert row["claimed"]["accuracy"] == pytest.approx(torch.stack(whole).all(dim=0).float().mean().item())
        assert row["lowest"]["accuracy"] <= row["claimed"]["accuracy"] <= row["clean"]["accuracy"]
        low, high = row["lowest"]["interval_95"]
        assert low <= row["lowest"]["accuracy"] <= high
        assert row["core_seconds"] >= 0
        assert row["devices"] == ["cpu"]
    for name in (STATIC, DENOISER_STATIC):
        assert "adaptive" not in rows[name]
        assert "against_static" not in rows[name]
    for name in rows.keys() - {STATIC, DENOISER_STATIC}:
        static = DENOISER_STATIC if name == DENOISER else STATIC
        assert rows[name]["against_static"]["lowest"] == compare(lowest[name], lowest[static])
        titles = {one["title"] for one in rows[name]["by_attack"]}
        assert {"CW-20, transfer from block off", "APGD-T, transfer from block off"} <= titles
    costs = {name: row["cost"] for name, row in rows.items()}
    assert costs[STATIC] == costs[DENOISER_STATIC] == 1
    assert costs[DENOISER] == pytest.approx(costs["energy-step"], rel=0.01)
    assert costs["noise-average"] == 4
    assert costs[SELF_GRADIENT] == pytest.approx(costs["energy-step"], rel=0.01)
    assert 2.5 < costs["energy-step"] < 3.1
    assert costs["anti-adversary"] == pytest.approx(2 * costs["energy-step"] - 1, rel=0.01)
    table = (folder / "referee.md").read_text()
    assert shown(found) in table
    assert shown(found) in capsys.readouterr().out


def test_a_device_that_is_not_there_is_refused_before_any_work(folder, capsys):
    assert main(command("--device", "cuda:99")) == 2
    assert "error: --device cuda:99: no such device" in capsys.readouterr().err
    assert not (folder / "runs" / "referee").exists()


def test_it_goes_on_where_it_was_stopped(folder, monkeypatch):
    rows = ["--rows", STATIC, "anti-adversary", "--whole", "autoattack", "--adaptive", "transfer", "--batch=4"]
    assert main(command(*rows)) == 0
    whole = result(folder)
    calls: list[Any] = []

    def stopping(trial, attack, pictures):
        if calls.count(attack.id) == 1 and attack.id.family == "apgd-t" and attack.id.state == "block on":
            raise KeyboardInterrupt
        calls.append(attack.id)
        return measure_batch(trial, attack, pictures)

    monkeypatch.setattr(measuring, "measure_batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        main(command(*rows, "--runs=again", "--out=again"))
    stopped = json.loads((folder / "again" / "referee.json").read_text())
    assert [row["name"] for row in stopped["rows"]] == [STATIC]
    (row,) = json.loads((folder / "again" / "anti-adversary.json.row").read_text())["rows"]
    assert [len(batch["withstood"]) for batch in row["batches"]] == [4]
    before = set(calls[:-1])

    def noting(trial, attack, pictures):
        assert attack.id not in before, "what is done is not measured again"
        calls.append(attack.id)
        return measure_batch(trial, attack, pictures)

    monkeypatch.setattr(measuring, "measure_batch", noting)
    half = calls[-1]
    assert main(command(*rows, "--runs=again", "--out=again")) == 0
    assert calls.count(half) == 2, "each of its two batches once"
    again = json.loads((folder / "again" / "referee.json").read_text())
    for row in (*whole["rows"], *again["rows"]):
        del row["core_seconds"]
    assert again["rows"] == whole["rows"]


def test_rows_can_be_judged_one_by_one(folder):
    options = ["--whole", "autoattack", "--adaptive", "transfer"]
    assert main(command("--rows", STATIC, *options)) == 0
    assert [row["name"] for row in result(folder)["rows"]] == [STATIC]
    assert main(command("--rows", "noise-average", *options)) == 0
    assert [row["name"] for row in result(folder)["rows"]] == [STATIC, "noise-average"]


def test_a_report_of_the_same_checkpoint_spares_its_rows(folder, monkeypatch, capsys):
    options = ["--whole", "autoattack", "--adaptive", "transfer", "--rows", STATIC, SELF_GRADIENT]
    assert main(command(*options)) == 0
    own = result(folder)
    merged = json.loads((folder / "runs" / "referee" / f"{SELF_GRADIENT}.json").read_text())
    merged["rows"] += json.loads((folder / "runs" / "referee" / f"{STATIC}.json").read_text())["rows"]
    assert merged["format"] == FORMAT
    # A row that nobody asked for must not count.
    extra = {
        "id": {"state": "block off", "family": "fgsm"},
        "attack": {},
        "core_seconds": 1,
        "not_finite": 0,
        "withstood": "0" * 10,
    }
    merged["rows"].append(extra)
    (folder / "report.json").write_text(json.dumps(merged))
    monkeypatch.setattr(measuring, "measure_batch", lambda *_: pytest.fail("all of it was measured"))
    assert main(command(*options, "--report=report.json", "--runs=other", "--out=other")) == 0
    assert json.loads((folder / "other" / "referee.json").read_text())["rows"] == own["rows"]
    written = json.loads((folder / "other" / f"{STATIC}.json").read_text())
    assert [entry["about"] for entry in written["earlier"]] == [merged["about"]], "who measured them"
    merged["setting"]["seed"] = 5
    (folder / "report.json").write_text(json.dumps(merged))
    capsys.readouterr()
    assert main(command(*options, "--report=report.json", "--runs=other", "--out=other")) == 2
    assert "differs from this run in seed" in capsys.readouterr().err


def test_the_first_pictures_of_a_report_are_enough(folder, monkeypatch):
    options = ["--whole", "autoattack", "--rows", STATIC]
    assert main(command(*options)) == 0
    saved = json.loads((folder / "runs" / "referee" / f"{STATIC}.json").read_text())
    (folder / "report.json").write_text(json.dumps(saved))
    monkeypatch.setattr(measuring, "measure_batch", lambda *_: pytest.fail("all of it was measured"))
    assert main(command(*options, "--first=6", "--report=report.json", "--runs=other", "--out=other")) == 0
    found = json.loads((folder / "other" / "referee.json").read_text())
    assert found["setting"]["pictures"] == 6
    assert "--first=6" in found["command"]
    answers = torch.stack([one.right[:6] for one in saved_rows(saved).values()]).all(dim=0)
    assert found["rows"][0]["lowest"]["accuracy"] == pytest.approx(answers.float().mean().item(), abs=1e-4)


def test_rows_of_other_attacks_than_ours_are_measured_again(folder, monkeypatch):
    options = ["--whole", "autoattack", "--rows", STATIC]
    assert main(command(*options)) == 0
    saved = json.loads((folder / "runs" / "referee" / f"{STATIC}.json").read_text())
    (square,) = (row for row in saved["rows"] if row["title"] == "Square")
    square["attack"]["queries"] += 1
    (fab,) = (row for row in saved["rows"] if row["title"] == "FAB-T")
    fab["attack"]["survivors_of"].append({"family": "fgsm"})  # which spared more pictures than it would now
    (folder / "report.json").write_text(json.dumps(saved))
    measured = []

    def noting(trial, attack, pictures):
        measured.append(attack.id.family)
        return measure_batch(trial, attack, pictures)

    monkeypatch.setattr(measuring, "measure_batch", noting)
    assert main(command(*options, "--report=report.json", "--runs=other", "--out=other")) == 0
    assert sorted({*measured}) == ["fab-t", "square"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "energy"], "unknown row 'energy'"),
        (["--rows", "static", "gradient-denoiser"], "name its checkpoint by --denoiser"),
        (["--rows", "denoiser-static"], "name its checkpoint by --denoiser"),
        (["--rows", "static", "--denoiser", "model.safetensors"], "a network of method self-gradient; name the check"),
        (["--rows", "static", "--denoiser", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--whole", "cw-20"], "name autoattack"),
        (["--adaptive", "square"], "square is none of transfer"),
        (["--whole", "autoattack", "moat"], "unknown attack 'moat'"),
        (["--report", "missing.json", "--rows", "static"], "no report of training.evaluate"),
    ],
)
def test_what_cannot_be_had_is_refused_before_any_attack(arguments, message, folder, capsys, monkeypatch):
    monkeypatch.setattr(measuring, "measure_batch", lambda *_: pytest.fail("an attack was run"))
    assert main(command(*arguments)) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_row_of_another_run_is_refused_where_it_is_asked_for(folder, capsys):
    options = ["--whole", "autoattack", "--rows", STATIC]
    assert main(command(*options)) == 0
    capsys.readouterr()
    assert main([*command(*options), "--batch=5"]) == 2
    assert "batch_size" in capsys.readouterr().err


def test_the_rows_of_a_denoiser_are_left_out_without_its_network(folder, denoiser, capsys):
    assert DENOISER in referee.parse([f"--denoiser={denoiser}"]).rows
    assert referee.parse([]).rows == [name for name in CONTENDERS if "denoiser" not in name]
    assert main(command("--report=missing.json")) == 2
    assert "left out: denoiser-static, gradient-denoiser\n" in capsys.readouterr().err


def test_a_denoiser_of_other_classes_is_refused(folder, denoiser, capsys):
    save_untrained(folder / "denoiser", replace(INFO, block=None, method="gradient-denoiser", class_names=("a", "b")))
    assert main(command(f"--denoiser={denoiser}", "--rows", STATIC)) == 2
    assert "other classes or pictures than model.safetensors" in capsys.readouterr().err


def test_a_network_without_a_block_has_no_row_for_it(folder, capsys):
    save_untrained(folder, replace(INFO, block=None))
    assert main(command("--rows", SELF_GRADIENT)) == 2
    assert "--rows static anti-adversary energy-step noise-average" in capsys.readouterr().err


def test_a_row_that_lacks_attacks_is_shown_with_them(folder):
    options = ["--whole", "autoattack", "--rows", STATIC, "anti-adversary", "--adaptive", "transfer"]
    assert main(command(*options)) == 0
    before = result(folder)
    assert all(row["missing"] == [] for row in before["rows"])
    assert "‡" not in shown(before)
    assert main(command("--whole", "autoattack", "--rows", STATIC, "--adaptive", "transfer", "transfer-apgd-t")) == 0
    static, layer = result(folder)["rows"]
    assert static["missing"] == []
    assert layer["missing"] == ["APGD-T, transfer from block off"]
    assert "| anti-adversary ‡ |" in shown(result(folder))
    assert "‡ Upper bounds: anti-adversary lacks APGD-T, transfer from block off." in shown(result(folder))


def compared(name, cost, won, lost, p):
    lowest = {"won": won, "lost": lost, "p": p}
    return {"name": name, "cost": cost, "missing": [], "against_static": {"lowest": lowest}}


def test_the_conclusion_follows_the_sign_test_and_its_direction():
    static = {"name": "static", "cost": 1.0}
    assert "yet" in conclusion([static])
    same, worse = compared("one", 3.0, 20, 18, 0.87), compared("two", 5.1, 3, 40, 0.001)
    assert conclusion([static, same, worse]).startswith("None of one, two withstands significantly more")
    assert conclusion([static, same, worse]).endswith(
        "3.0 to 5.1 times the cost of an answer. Significantly fewer, under more attacks: two."
    )
    assert conclusion([static, same]).endswith("3.0 times the cost of an answer.")
    better = compared("three", 4.0, 40, 3, 0.001)
    assert conclusion([same, worse, better]) == (
        "Of 3 defences these withstand significantly more than the static network in them: "
        "three (at 4.0 times the cost). Significantly fewer, under more attacks: two."
    )
    unfinished = {**better, "missing": ["FAB-T"]}
    assert conclusion([same, unfinished]) == (
        "None of one withstands significantly more pictures than the static network in it (p < 0.05), at 3.0 times the "
        "cost of an answer. Not counted, for attacks are missing, but ahead so far: three."
    )
    assert conclusion([same, {**worse, "missing": ["FAB-T"]}]).endswith("Significantly fewer, under more attacks: two.")


def test_every_row_has_autoattack_and_a_defence_has_attacks_that_know_of_it():
    for contender in CONTENDERS.values():
        context = Context(8 / 255, has_block=True, classes=10)
        attacks = [attack.id for attack in referee.attacks_of(contender, context, referee.parse([]))]
        assert CLEAN.matches(attacks[0])
        for family in ("apgd-ce", "apgd-t", "fab-t", "square"):
            assert any(RowFilter.like(family=family, view="held").matches(row) for row in attacks)
        assert {row.state for row in attacks} == {contender.state}
        kinds = {row.kind for row in attacks}
        assert ("transfer" in kinds) == (contender.name not in (STATIC, DENOISER_STATIC))
        assert ("adaptive" in kinds) == (contender.name in (SELF_GRADIENT, "anti-adversary", "energy-step", DENOISER))
