"""The command line on a module of one's own: --module FILE.py:FUNCTION."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from training.evaluate.command import main

pytestmark = pytest.mark.usefixtures("short_attacks")

MY = """
import torch
from torch import nn

from beside import CLASSES


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, images):
        return self.linear(self.layers((images - 0.5) / 0.25))


def build():
    return Mine()


def number():
    return 7


def fails():
    raise FileNotFoundError("no weights.pt")


made = Mine()


def stops():
    raise SystemExit("give me a flag")


def drawn():
    module = Mine()
    nn.init.normal_(module.linear.weight, generator=torch.Generator().manual_seed(torch.seed() % 2**31))
    return module
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module, which imports another one beside it."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "my_network.py").write_text(MY)
    (folder / "beside.py").write_text("CLASSES = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return folder / "my_network.py"


def arguments(mine: Path, data: Path, *more: str, name: str = "build") -> list[str]:
    given = [f"--module={mine}:{name}", f"--data-root={data}", "--dataset=image-folder", "--device=cpu"]
    return [*given, "--pictures=6", "--attacks=fgsm", *more]


def test_a_module_of_ones_own(mine, picture_folder, tmp_path, capsys):
    assert main(arguments(mine, picture_folder)) == 0
    printed, told = capsys.readouterr()
    assert printed.startswith(f"{picture_folder.name}, test split, 6 pictures, L-inf eps 0.0314\n\n| accuracy, % |")
    path = Path("runs/evaluations/my_network-build/evaluation.json")
    assert f"wrote {path}" in printed
    assert f"the report goes to {path}" in told
    saved = json.loads(path.read_text())
    assert [row["title"] for row in saved["rows"]] == ["clean", "FGSM"]
    assert saved["setting"]["architecture"] == "my_network-build"
    assert "--module=" in saved["about"]["command"]
    Path("page").mkdir()
    shutil.copy(path, "page")
    assert main(arguments(mine, picture_folder, "--report=page")) == 0
    assert "continuing after 2 of 2 attacks" in capsys.readouterr().err
    assert Path("page/evaluation.md").read_text().startswith("# Robustness of my_network-build\n\n")


def test_pictures_become_another_size(mine, picture_folder, capsys):
    options = ["--image-size=8", "--resize=crop", "--report=small.json"]
    assert main(arguments(mine, picture_folder, *options)) == 0
    assert json.loads(Path("small.json").read_text())["setting"]["pictures"] == 6


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("number", "number() returns a int, not a torch.nn.Module"),
        ("nothing", "defines no function 'nothing'; write it"),
        ("biuld", "defines no function 'biuld'; did you mean build? write it like"),
        ("made", "made is a module itself; name a function that returns it, such as one of the line `def build(): ret"),
        ("stops", "SystemExit: give me a flag (my_network.py, line 35)"),
        ("fails", "FileNotFoundError: no weights.pt (my_network.py, line 28)"),
        ("two words", "no Python file and function; write it like models/my.py:build"),
    ],
)
def test_functions_that_build_no_module(mine, picture_folder, capsys, name, complaint):
    assert main(arguments(mine, picture_folder, name=name)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --module {mine}:{name}: ")
    assert complaint in line


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library' (my_network.py, line 1)"),
        ("x = 1\ny = = 2\n", "SyntaxError: invalid syntax (my_network.py, line 2)"),
        ("\neval('(')\n", "SyntaxError: '(' was never closed (my_network.py, line 2)"),
        ("raise SyntaxError('x')\n", "SyntaxError: x (my_network.py, line 1)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (my_network.py, line 2)"),
        (MY.replace("/ 0.25))", "/ 0.25)).softmax(1)"), "the module answers with probabilities"),
        (
            MY.replace("return self.linear(self", "return self.linear(1 + self").replace("CLASSES)", "5)"),
            "5 classes, but there are 3 in the class folders of --data-root ",
        ),
    ],
)
def test_files_that_do_not_work(mine, picture_folder, capsys, text, complaint):
    mine.write_text(text)
    assert main(arguments(mine, picture_folder)) == 2
    # One line: where the report goes is told once nothing is refused any more.
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_a_mistake_in_a_file_that_is_imported_is_placed_there(mine, picture_folder, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    mine.with_name("beside.py").write_text("\n\nCLASSES = = 3\n")
    assert main(arguments(mine, picture_folder)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: --module {mine}:build: SyntaxError: invalid syntax (beside.py, line 3)"


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--data-root=x"], "pass --ckpt, or --module for a network of your own, and not both"),
        (["--ckpt=a", "--module=b.py:c", "--data-root=x"], "and not both"),
        (["--module=b.py:c", "--data-root=x"], "--module needs --dataset, which is one of: cifar10"),
        (["--module=b.py:c", "--data-root=x", "--dataset=cifar10", "--onnx=g.onnx"], "--onnx is for --ckpt; leave it"),
        (["--ckpt=a", "--data-root=x", "--image-size=8"], "--image-size is for --module: the checkpoint says it"),
        (["--module=b.py:c", "--data-root=x", "--dataset=cifar10"], "there is no file b.py"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, monkeypatch, capsys, argv, complaint):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_weights_that_are_drawn_anew_are_told(mine, picture_folder, capsys):
    """Its own report refuses such a module, and two functions of a file have a report each."""
    given = arguments(mine, picture_folder, name="drawn")
    assert main(given) == 0
    assert main(given) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "runs/evaluations/my_network-drawn/evaluation.json is a report of another setting: module_sha256 " in error
    assert "; its weights have changed since: load them from a file, or seed what draws them, or pass another" in error
    assert main(arguments(mine, picture_folder)) == 0
    assert main([*given, "--eps=4/255"]) == 2
    assert "; give the same settings as then, or pass another" in capsys.readouterr().err.splitlines()[-1]
