"""The way from a clone to a served folder: what is typed, where, and in which environment."""

import json
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from release import install
from release.own_folder import CLASSES, OwnFolderError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def typed(monkeypatch):
    """Makes the clone and types nothing; the commands in order, with where and in which environment they would run."""
    commands = []

    def run(folder, environment, *command):
        commands.append((folder, environment, command))
        if command[:2] == ("git", "clone"):
            shutil.copytree(ROOT / "examples", folder / "clone" / "examples")
            subprocess.run(["git", "init", "-q", folder / "clone"], check=True)

    @contextmanager
    def served(folder, environment, *command):
        commands.append((folder, environment, command))
        yield SimpleNamespace()

    monkeypatch.setattr(install, "run", run)
    monkeypatch.setattr(install, "served", served)
    monkeypatch.setattr(install, "classified", lambda client, picture: {"label": picture.stem.partition("_")[0]})
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("MAKEFLAGS", "-n")
    monkeypatch.setenv("SGN_API_TOKEN", "secret")
    return commands


def test_the_way_is_the_readmes_and_nothing_of_this_environment_is_used(typed, tmp_path, capsys):
    out = tmp_path / "install.json"
    assert install.main([f"--work={tmp_path / 'work'}", f"--out={out}"]) == 0
    clone = tmp_path / "work" / "clone"
    lines = [" ".join(command) for _, _, command in typed]
    assert lines[0] == f"git clone -q {ROOT} clone"
    assert lines[1] == "make serve PORT={port}"
    assert lines[2] == "python -m pip install -q -c constraints.txt -e .[train,export]"
    assert lines[3].startswith("sgn train --data-root DATA --arch wrn-10-1 ")
    assert lines[4] == "sgn judge --ckpt runs/mine/model.safetensors --data-root DATA --attacks fgsm"
    assert lines[5:] == [
        "sgn export --ckpt runs/mine/model.safetensors --onnx mine.onnx",
        "sgn serve --model mine.onnx --port {port}",
    ]
    assert all(folder == clone for folder, _, _ in typed[1:])
    for _, environment, _ in typed:
        assert not {"PYTHONPATH", "MAKEFLAGS", "SGN_API_TOKEN"} & environment.keys()
    assert typed[1][1]["PATH"].startswith(f"{clone}/.venv/bin:")
    assert sorted(path.name for path in (clone / "DATA").iterdir()) == sorted(CLASSES)
    assert len(list((clone / "DATA").rglob("*.png"))) == 30
    result = json.loads(out.read_text())
    assert result["command"] == f"python -m release.install --work={tmp_path / 'work'} --out={out}"
    assert result["labels"] == {"bundled": "ship", "own": "ship"}
    assert len(result["steps"]) == len(typed)
    assert "| judge | `sgn judge --ckpt runs/mine/model.safetensors" in capsys.readouterr().out


def test_a_folder_that_exists_and_a_command_that_fails_are_errors(tmp_path, capsys):
    assert install.main([f"--work={tmp_path}"]) == 2
    assert "File exists" in capsys.readouterr().err
    assert install.main([f"--work={tmp_path / 'new'}", f"--out={__file__}/install.json"]) == 2
    assert not (tmp_path / "new").exists(), "what cannot be written is told before the work"
    with pytest.raises(OwnFolderError, match="false failed; its message is above"):
        install.run(tmp_path, {}, "/usr/bin/false")


def test_a_server_that_does_not_start_is_told(tmp_path):
    (tmp_path / "clone").mkdir()
    with (
        pytest.raises(OwnFolderError, match=r"the service did not start; .*server\.log says why"),
        install.served(tmp_path / "clone", {}, "/usr/bin/false"),
    ):
        pass


@pytest.mark.slow
def test_a_real_run(tmp_path):
    result = install.go(tmp_path)
    assert result["labels"]["bundled"] == "ship"
    assert result["labels"]["own"] in CLASSES
