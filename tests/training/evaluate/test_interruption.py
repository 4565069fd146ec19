"""An interrupted evaluation loses a batch at most, and says truly what is saved."""

import json
import shutil

import pytest
import torch
from torch import nn

from tests.training import checkpoints
from training.attacks.base import AttackOn
from training.attacks.gradient_attack import Attack, cw_attack, pgd_attack
from training.attacks.registry import Context, build_attacks
from training.evaluate import checks, measuring, prepare, run
from training.evaluate.command import main
from training.evaluate.diagnostics import accuracy_curve, gradient_check
from training.evaluate.measuring import Trial
from training.evaluate.report import Report
from training.evaluate.row_progress import CheckProgress
from training.evaluate.run import Evaluation
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

pytestmark = pytest.mark.usefixtures("short_attacks")

EPS = 8 / 255


def evaluation(folder, pictures=8) -> Evaluation:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)]
    network = SelfGradientNetwork(nn.Sequential(*layers), SelfGradientBlock(scale=EPS, gradient_scaling="rms")).eval()
    images = torch.rand(pictures, 3, 8, 8)
    with torch.no_grad():
        labels = network(images).argmax(dim=1)
    trial = Trial(network, images, labels, EPS, seed=0, batch_size=3)
    return Evaluation(trial, tuple("abcde"), Report({"pictures": pictures}), folder / "e.json", (20.0,), progress=False)


def some_attacks() -> list[AttackOn]:
    context = Context(EPS, has_block=True, classes=5, betas=(20.0,))
    return build_attacks(["pgd-2", "cw-2"], context)


def figures(report: Report) -> dict:
    """Return a report without what another run measures otherwise: its time."""
    found = json.loads(json.dumps(report.as_dict()))
    for row in found["rows"]:
        del row["core_seconds"]
    return found


@pytest.fixture(scope="module", autouse=True)
def ten_directions(short_attacks):
    """Sets ten directions: one for each moment at which a test interrupts their check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient_check, "DIRECTIONS", 10)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, ten_directions):
    one = evaluation(tmp_path_factory.mktemp("whole"))
    one.run(some_attacks())
    return figures(one.report)


def stop_at(monkeypatch, place, name, call):
    """Raise KeyboardInterrupt in the call of this number, from 1, of a function or method."""
    original, calls = getattr(place, name), []

    def stopping(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(place, name, stopping)
    return calls


PHASES = [
    # Clean accuracy is two rows of three batches each.
    (Attack, "perturb", 1, "nothing is saved yet, so the same command starts again"),
    (Attack, "perturb", 2, "the same command continues in block on: clean, after 3 of 8 pictures"),
    (Attack, "perturb", 4, "the same command continues after 1 of 6 attacks"),
    (Attack, "perturb", 6, "the same command continues in block off: clean, after 6 of 8 pictures"),
    (gradient_check, "_gradients", 1, "the same command continues after 2 of 6 attacks"),
    (CheckProgress, "save", 8, "the same command continues in the check of gradients, after 7 of 10 directions"),
    (run, "batch_dependence", 1, "the same command continues after 2 of 6 attacks"),
    (Attack, "perturb", 7, "the same command continues after 2 of 6 attacks"),
    (Attack, "perturb", 8, "the same command continues in block on: PGD-2, after 3 of 8 pictures"),
    (accuracy_curve, "accuracy_over_eps", 1, "the same command continues after all 6 attacks"),
    (checks, "measure_block_effect", 1, "the same command continues after all 6 attacks"),
]


@pytest.mark.thorough
@pytest.mark.parametrize("phase", PHASES, ids=[f"{one[1]} {one[2]}" for one in PHASES])
def test_an_interrupt_in_each_phase(phase, tmp_path, whole, monkeypatch):
    *where, told = phase
    one = evaluation(tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, *where)
        with pytest.raises(KeyboardInterrupt):
            one.run(some_attacks())
    assert one.resumption == told
    beside = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert (beside == []) == told.startswith("nothing"), "what is told to be saved is"
    again = evaluation(tmp_path)
    again.run(some_attacks())
    assert figures(again.report) == whole
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["e.json"], "nothing is left beside it"


def test_a_check_that_was_interrupted_measures_what_is_left_alone(tmp_path, whole, monkeypatch):
    one = evaluation(tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, CheckProgress, "save", 5)
        with pytest.raises(KeyboardInterrupt):
            one.run(some_attacks())
    saved = stop_at(monkeypatch, CheckProgress, "save", 1000)
    again = evaluation(tmp_path)
    again.run(some_attacks())
    assert len(saved) == gradient_check.DIRECTIONS - 4
    assert figures(again.report) == whole


def test_a_finished_report_measures_nothing_again(tmp_path, monkeypatch):
    one = evaluation(tmp_path)
    one.run(some_attacks())
    one.write_page(tmp_path / "page")
    before = figures(one.report)
    for place, name in (
        (measuring, "withstood"),
        (measuring, "measure_batch"),
        (checks, "measure_block_effect"),
        (run, "measure_convergence"),
        (run, "batch_dependence"),
        (CheckProgress, "save"),
    ):
        stop_at(monkeypatch, place, name, 1)
    again = evaluation(tmp_path)
    again.run(some_attacks())
    again.write_page(tmp_path / "page")
    assert figures(again.report) == before


def judging(checkpoint, picture_folder) -> list[str]:
    return [f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=6", "--device=cpu", "--attacks=pgd-1"]


@pytest.fixture
def command(picture_folder, tmp_path):
    return judging(checkpoints.save_untrained(tmp_path, checkpoints.tiny_info(block=None)), picture_folder)


@pytest.fixture(scope="module")
def seed_report(picture_folder, tmp_path_factory, short_attacks):
    """A report of another seed than the command's."""
    folder = tmp_path_factory.mktemp("seed")
    checkpoint = checkpoints.save_untrained(folder, checkpoints.tiny_info(block=None))
    assert main([*judging(checkpoint, picture_folder), "--seed=1", f"--report={folder / 'seed.json'}"]) == 0
    return folder / "seed.json"


@pytest.fixture
def occupied(seed_report, tmp_path):
    """Places of a report that are taken."""
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.json").mkdir()
    (tmp_path / "other.json").write_text("{}")
    shutil.copy(seed_report, tmp_path)


def test_nothing_is_promised_while_the_pictures_are_read(command, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, prepare, "load_pictures", 1)
        assert main(command) == 130
    assert capsys.readouterr().err == "interrupted; nothing was measured yet, so run the same command again\n"
    stop_at(monkeypatch, Attack, "perturb", 1)
    assert main(command) == 130
    assert "interrupted; nothing is saved yet, so the same command starts again\n" in capsys.readouterr().err


@pytest.mark.usefixtures("occupied")
@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("/proc/nothing/report.json", "/proc/nothing/report.json: cannot be written (No such file or directory)"),
        ("{folder}/file/report.json", "report.json: cannot be written (Not a directory); check that"),
        ("{folder}/taken.json", "taken.json: cannot be written (Is a directory); check that"),
        ("{folder}/other.json", "other.json: not a report of this kind (its JSON says format None"),
        ("{folder}/seed.json", "seed.json is a report of another setting: seed (was 1, now 0); give the same settings"),
    ],
)
def test_a_report_that_cannot_be_is_refused_before_pictures_are_read(
    report, message, command, tmp_path, monkeypatch, capsys
):
    before = sorted(tmp_path.iterdir())
    read = stop_at(monkeypatch, prepare, "load_pictures", 1)
    assert main([*command, f"--report={report.format(folder=tmp_path)}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert read == []
    assert sorted(tmp_path.iterdir()) == before


def test_attacks_of_the_table_are_what_is_counted():
    assert [attack.id.label for attack in some_attacks()][:2] == ["block on: clean", "block off: clean"]
    assert pgd_attack(2) in some_attacks()
    assert cw_attack(2, block=False) in some_attacks()
