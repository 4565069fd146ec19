"""`python -m release.gpu`: a whole rehearsal without packages that a GPU's image may lack, and what can go wrong."""

import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from release.gpu.command import in_memory, main
from release.gpu.plan import PLAN
from release.gpu.record import NAME, Record
from release.gpu.stage import Settings
from tests.release.gpu.rehearsals import FAILING, LARGEST_FILE, OVERLONG

FILES = {
    "benchmark.json",
    "gpu.json",
    "log.txt",
    "plain.safetensors",
    "plain-training.csv",
    "self-gradient.safetensors",
    "self-gradient-training.csv",
}


def test_a_rehearsal_writes_every_file_and_none_that_is_too_large(rehearsal: tuple[dict[str, Any], Settings]) -> None:
    files = list(Path(rehearsal[1].out).iterdir())
    assert {file.name for file in files} == FILES
    assert all(0 < file.stat().st_size < LARGEST_FILE for file in files)


def test_every_stage_has_a_status_and_figures(rehearsal: tuple[dict[str, Any], Settings]) -> None:
    stages = rehearsal[0]["stages"]
    assert list(stages) == [PLAN[0].name, FAILING.name, OVERLONG.name, *(stage.name for stage in PLAN[1:])]
    for stage in PLAN:
        found = stages[stage.name]
        if stage.name == "serving":
            assert found["status"] == "skipped"
            assert found["reason"] == "not installed: bentoml, onnxruntime, onnx, pydantic, starlette"
            continue
        assert found["status"] == "done", found
        assert found["figures"]["says"]
        assert 0 < found["seconds"] <= found["limit_seconds"]
    assert stages["environment"]["figures"]["cores"] >= 1
    assert stages["environment"]["figures"]["versions"]["torch"] == version("torch")
    assert stages["tests"]["figures"]["counts"] == {"skipped": 1}
    assert stages["tests"]["figures"]["skipped_because"] == {"needs an NVIDIA GPU that PyTorch can use": 1}
    assert stages["peak"]["figures"]["bf16_matmul_tflops"] > 0
    for name in ("train-plain", "train-self-gradient"):
        assert stages[name]["figures"]["epochs"] >= 1
        assert stages[name]["figures"]["operations_per_picture"] > 1e6
        assert stages[name]["figures"]["share_of_bf16_peak"] is not None


def test_a_stage_that_fails_and_one_that_overruns_are_told_and_the_next_ones_run(
    rehearsal: tuple[dict[str, Any], Settings],
) -> None:
    stages = rehearsal[0]["stages"]
    failed, overran = stages[FAILING.name], stages[OVERLONG.name]
    assert (failed["status"], failed["reason"], failed["output"]) == ("failed", "planted", ["so far", "planted"])
    assert (overran["status"], overran["reason"]) == ("overran", "its 6 s were up")
    (child,) = map(int, overran["output"])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_told_to_stop_it_keeps_what_was_done(project_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "release.gpu", "--rehearse", "--out", str(tmp_path), "--stages"]
    process = subprocess.Popen(
        [*command, "pictures", "train-plain"], cwd=project_root, stdout=subprocess.PIPE, text=True
    )
    try:
        record = Record(tmp_path / NAME)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            started = record.path.is_file() and record.stage("train-plain")["status"] == "running"
            children = psutil.Process(process.pid).children()
            if started and children:
                break
            time.sleep(0.1)
        (child,) = children
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    stages = record.read()["stages"]
    assert [stages[name]["status"] for name in stages] == ["done", "stopped"]
    stopped, written = output.strip().splitlines()[-2:]
    assert stopped == "train-plain: stopped: the run was told to stop"
    assert written.startswith(f"wrote {tmp_path / NAME}")
    _, alive = psutil.wait_procs([child], timeout=20)  # it is killed, and ends at once but on a busy machine
    assert alive == []


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"--out={tmp_path / 'out'}"
    for arguments, message in (
        ([out], "error: there is no --data; name an archive of an image folder, or pass --rehearse for a try"),
        ([out, "--data=no.tar"], "error: --data no.tar: no such file; name an archive of an image folder"),
        ([out, "--rehearse", "--minutes=0"], "error: --minutes must be above 0, not 0"),
        ([out, "--rehearse", "--recipes", "prior"], "error: --recipes prior: no such recipe; known are: uniform-ema, "),
        ([out, "--rehearse", "--recipes", "liet", "liet"], "error: --recipes names liet twice; name it once"),
        ([out, "--rehearse", "--recipes", "liet"], "error: --recipes is for the stage recipes, which does not run"),
        ([out, "--rehearse", "--stages", "tests", "speeed"], "error: --stages speeed: no such stage; known are: "),
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(message)
        assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_make_gpu_installs_nothing(project_root: Path, tmp_path: Path) -> None:
    command = ["make", "-n", "gpu", f"VENV={tmp_path}", "PYTHON=some-python", "DATA=data.tar.xz", "OUT=there"]
    shown = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=True).stdout
    assert shown.split() == [
        *["some-python", "-m", "release.gpu", "--out", "there"],
        "\\",
        *["--minutes", "9", "--data", "data.tar.xz"],
    ]


def test_pictures_are_unpacked_in_memory_where_there_is_room(tmp_path: Path) -> None:
    assert in_memory(tmp_path, needed=1) == tmp_path
    assert in_memory(tmp_path, needed=2**60) is None
    assert in_memory(tmp_path / "none") is None
