"""`python -m release.gpu`: a whole rehearsal without packages that a GPU's image may lack, and what can go wrong."""

import ast
import json
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from benchmarks.untrained import untrained_network
from release.gpu import attacks, gpu_tests, pictures, serving
from release.gpu.command import in_memory, main, run_stages
from release.gpu.plan import PLAN, REHEARSAL, Stage, choose, limit
from release.gpu.record import NAME, Record
from release.gpu.stage import Run, Settings, Skip
from release.gpu.train import half_precision
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data.loading import load_pictures

FILES = {
    "benchmark.json",
    "gpu.json",
    "log.txt",
    "plain.safetensors",
    "plain-training.csv",
    "self-gradient.safetensors",
    "self-gradient-training.csv",
}
NOT_IN_THE_IMAGE = ("onnx", "onnxruntime", "onnxscript", "openvino", "bentoml", "pydantic", "starlette", "httpx")
LARGEST_FILE = 16 * 10**6
FAILING = Stage(
    "planted failure", "", 60, command=(sys.executable, "-c", "print('so far'); raise SystemExit('planted')")
)
OVERLONG = Stage(
    "planted overlong stage",
    "",
    6,
    command=(
        sys.executable,
        "-c",
        "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)",
    ),
)


def settings_in(folder: Path) -> Settings:
    out, work = folder / "out", folder / "work"
    out.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    return Settings(str(out), str(work), data="", dataset_name="generated pictures", rehearse=True)


def run_of(name: str, settings: Settings, seconds: float = 600.0) -> Run:
    Record(Path(settings.out) / NAME).start({}, [name])
    return Run(name, settings, time.monotonic() + seconds)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Settings]:
    """gpu.json of a rehearsal with two planted stages, in which what the image may lack cannot be imported."""
    folder = tmp_path_factory.mktemp("rehearsal")
    blocker = folder / "blocker"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        f"""
from functools import partial
from importlib.machinery import PathFinder

def find_spec(find, name, *rest):
    return None if name.split(".")[0] in {NOT_IN_THE_IMAGE} else find(name, *rest)

PathFinder.find_spec = partial(find_spec, PathFinder.find_spec)
"""
    )
    settings = settings_in(folder)
    stages = (REHEARSAL[0], FAILING, OVERLONG, *REHEARSAL[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(blocker))
        assert run_stages(stages, settings, {"rehearsal": True}, minutes=10) == 1
    return json.loads((Path(settings.out) / NAME).read_text()), settings


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


def test_the_speed_of_both_passes_is_a_share_of_the_peak(rehearsal: tuple[dict[str, Any], Settings]) -> None:
    figures = rehearsal[0]["stages"]["speed"]["figures"]
    operations = figures["operations_per_picture"]["wrn-10-1"]
    assert 2.5 < operations["both passes"] / operations["one pass"] < 3.5
    row = figures["best"]["wrn-10-1, tf32, batch 2"]["eager, both passes"]
    assert row["tflops"] == pytest.approx(2 * operations["both passes"] / row["best_ms"] / 1e9, abs=1e-3)
    left_out = figures["left_out"]["wrn-10-1, tf32, batch 1"]
    assert set(left_out) == {"graph, CUDA graph", "graph, fused block, CUDA graph"}
    assert all(left_out.values())


def test_a_stage_that_fails_and_one_that_overruns_are_told_and_the_next_ones_run(
    rehearsal: tuple[dict[str, Any], Settings],
) -> None:
    stages = rehearsal[0]["stages"]
    failed, overran = stages[FAILING.name], stages[OVERLONG.name]
    assert (failed["status"], failed["reason"], failed["output"]) == ("failed", "planted", ["so far", "planted"])
    assert (overran["status"], overran["reason"]) == ("overran", "its 6 s were up")
    (child,) = map(int, overran["output"])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_summary_is_a_line_a_stage(rehearsal: tuple[dict[str, Any], Settings]) -> None:
    lines = rehearsal[0]["summary"]
    assert [line.split(": ")[0] for line in lines] == list(rehearsal[0]["stages"])
    assert len(PLAN) == 10
    assert "planted failure: failed" in lines[1]
    assert lines[1].endswith(": planted")


def test_both_networks_are_kept_in_half_precision(rehearsal: tuple[dict[str, Any], Settings]) -> None:
    out = Path(rehearsal[1].out)
    for name, method in (("plain", "pgd"), ("self-gradient", "self-gradient")):
        path = out / f"{name}.safetensors"
        with safe_open(path, framework="pt") as file:
            kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118 (not a dict)
        assert kinds == {torch.float16, torch.int64}
        model, info = load_checkpoint(path)
        assert info.method == method
        assert info.dataset == "generated pictures"
        assert torch.isfinite(model(torch.rand(2, 3, *info.image_size))).all()
    assert info.recipe["init_from"].endswith("plain/model.safetensors")


def test_the_networks_of_a_real_run_fit_into_a_file(tmp_path: Path) -> None:
    network, info = untrained_network("wrn-16-4", 32)
    save_checkpoint(tmp_path / "half.safetensors", half_precision(network), info)
    assert (tmp_path / "half.safetensors").stat().st_size < LARGEST_FILE


def test_attacks_end_with_their_time_and_say_how_many_pictures_were_attacked(
    rehearsal: tuple[dict[str, Any], Settings], tmp_path: Path
) -> None:
    settings = replace(settings_in(tmp_path), out=rehearsal[1].out)
    kept = (Path(settings.out) / NAME).read_text()
    try:
        pictures.prepare(run_of("pictures", settings))
        run = run_of("attacks", settings, seconds=0)
        attacks.attack(run)
        accuracy = run.figures_of("attacks")["accuracy"]
    finally:
        (Path(settings.out) / NAME).write_text(kept)
    assert set(accuracy) == {"self-gradient, block on", "self-gradient, block off", "plain"}
    for column in accuracy.values():
        assert list(column) == ["clean", "APGD-CE", "APGD-T"]
        for row in column.values():
            low, high = row["interval_95"]
            assert row["pictures"] == attacks.BATCH[True] < attacks.PICTURES[True]
            assert low <= row["accuracy"] <= high
            assert high - low > 0.2
        assert column["clean"]["accuracy"] >= column["APGD-CE"]["accuracy"] >= column["APGD-T"]["accuracy"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_real_run_says_so_and_trains_nothing(tmp_path: Path) -> None:
    with pytest.raises(Skip, match="no NVIDIA GPU that PyTorch can use; for a try on the CPU pass --rehearse"):
        run_of("attacks", replace(settings_in(tmp_path), rehearse=False)).device()


def test_the_service_answers_in_a_rehearsal(tmp_path: Path) -> None:
    run = run_of("serving", settings_in(tmp_path))
    serving.serve(run)
    figures = run.figures_of("serving")
    assert figures["providers"] == "cpu"
    assert figures["median_ms"] > 0
    assert figures["answer"]["label"]
    assert figures["answer"]["self_gradient"] is True


def test_told_to_stop_it_keeps_what_was_done(project_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "release.gpu", "--rehearse", "--out", str(tmp_path), "--stages"]
    process = subprocess.Popen(
        [*command, "pictures", "train-plain"], cwd=project_root, stdout=subprocess.PIPE, text=True
    )
    try:
        record = Record(tmp_path / NAME)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if record.path.is_file() and record.stage("train-plain")["status"] == "running":
                break
            time.sleep(0.1)
        (child,) = psutil.Process(process.pid).children()
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
    assert not child.is_running()


def test_shares_leave_what_later_stages_reserve() -> None:
    stages = (
        Stage("one", "", 100),
        Stage("two", "", 3600, share=0.5),
        Stage("three", "", 3600, share=1.0),
        Stage("four", "", 3600, reserved=60),
    )
    assert limit(stages, 0, 500) == 100
    assert limit(stages, 0, 30) == 30
    assert limit(stages, 1, 260) == 100
    assert limit(stages, 2, 160) == 100
    assert limit(stages, 2, 50) == 0
    assert limit(stages, 3, 60) == 60


def test_nine_minutes_leave_time_to_train_even_if_all_else_takes_its_limit() -> None:
    index = [stage.name for stage in PLAN].index("train-plain")
    usual = {"environment": 6, "kernels": 60, "tests": 90, "peak": 20, "speed": 120, "serving": 3, "pictures": 20}
    left = 540 - sum(usual[stage.name] for stage in PLAN[:index])
    assert limit(PLAN, index, left) > 60


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"--out={tmp_path / 'out'}"
    for arguments, message in (
        ([out], "error: there is no --data; name an archive of an image folder, or pass --rehearse for a try"),
        ([out, "--data=no.tar"], "error: --data no.tar: no such file; name an archive of an image folder"),
        ([out, "--rehearse", "--minutes=0"], "error: --minutes must be above 0, not 0"),
        ([out, "--rehearse", "--stages", "tests", "speeed"], "error: --stages speeed: no such stage; known are: "),
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(message)
        assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_stages_are_chosen_in_the_order_of_the_plan() -> None:
    assert [stage.name for stage in choose(PLAN, ["attacks", "peak"])] == ["peak", "attacks"]
    assert choose(PLAN, []) == PLAN


def test_an_archive_is_read_as_the_folder_that_it_holds(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("dog", "cat"):
            (tmp_path / "folder" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(tmp_path / "folder" / split / name / f"{index}.png")
    archive = tmp_path / "pictures.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        for split in ("train", "test"):
            file.add(tmp_path / "folder" / split, split)
    read = pictures.read_archive(archive, tmp_path / "unpacked")
    for split in pictures.SPLITS:
        expected = load_pictures("image-folder", tmp_path / "folder", split)
        assert read[split].class_names == expected.class_names == ("cat", "dog")
        assert torch.equal(read[split].images, expected.images)
        assert torch.equal(read[split].labels, expected.labels)


def test_a_damaged_archive_is_no_reason_to_wait(tmp_path: Path) -> None:
    (tmp_path / "damaged.tar").write_bytes(bytes(range(256)) * 400)
    with pytest.raises(subprocess.CalledProcessError, match="tar"):
        pictures.read_archive(tmp_path / "damaged.tar", tmp_path / "unpacked")


def marked_gpu(file: Path) -> bool:
    """Whether a file uses pytest.mark.gpu."""
    source = file.read_text()
    return "gpu" in source and any(
        isinstance(node, ast.Attribute) and node.attr == "gpu" and ast.unparse(node.value).split(".")[-1] == "mark"
        for node in ast.walk(ast.parse(source))
    )


def test_the_stage_tests_runs_every_test_that_is_marked_gpu(project_root: Path) -> None:
    marked = {file.relative_to(project_root) for file in (project_root / "tests").rglob("*.py") if marked_gpu(file)}
    for place in map(Path, {*gpu_tests.FOLDERS, *gpu_tests.REHEARSED}):
        assert (project_root / place).exists()
        assert any(file.is_relative_to(place) for file in marked), f"{place} has no test that is marked gpu"
    assert not [file for file in marked if not any(file.is_relative_to(place) for place in gpu_tests.FOLDERS)]


def test_a_junit_report_is_counted(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite name="pytest">'
        '<testcase classname="a" name="one"/>'
        '<testcase classname="a" name="two"><failure message="wrong">...</failure></testcase>'
        '<testcase classname="a" name="three"><skipped message="needs a GPU">...</skipped></testcase>'
        '<testcase classname="a" name="four"><skipped message="needs a GPU">...</skipped></testcase>'
        '<testcase classname="a" name="five"><error message="no module">...</error></testcase>'
        "</testsuite></testsuites>"
    )
    assert gpu_tests.counts(report) == {
        "counts": {"passed": 1, "failed": 1, "skipped": 2, "errors": 1},
        "skipped_because": {"needs a GPU": 2},
        "failures": {"a::two": "wrong", "a::five": "no module"},
    }


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
