"""A run's folder belongs to one training: real processes, killed ones included."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.processes import start_training
from tests.training.tiny_run import arguments, failure
from training.command import main
from training.loop.run_lock import HANDED_OUT, LOCK, RunInUse, RunLock, RunLost, run_lock

ROOT = Path(__file__).parents[3]
HOLDING = "import sys; from pathlib import Path; from training.loop.run_lock import run_lock\n"
HOLDING += "with run_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds a folder until its standard input ends."""
    started = []

    def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(folder)],
            env=os.environ | {"PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_living_process_is_named_and_its_folder_is_free_when_it_ends(holder, tmp_path):
    folder = tmp_path / "runs" / "a"
    process = holder(folder)
    with pytest.raises(RunInUse) as refused, run_lock(folder):
        pass
    message = str(refused.value)
    assert f"process {process.pid} on {socket.gethostname()}, since 20" in message
    assert "give another --run" in message
    assert "\n" not in message
    process.communicate("", timeout=60)
    assert not (tmp_path / "runs").exists(), "nothing was written, so nothing is left"
    with run_lock(folder):
        assert json.loads((folder / LOCK).read_text())["process"] == os.getpid()


def test_the_folder_of_a_killed_process_is_taken_over(holder, tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert json.loads((tmp_path / LOCK).read_text())["process"] == process.pid
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("left", ["", "{", "[1]", '{"process": 7}'])
def test_half_a_record_of_a_killed_process_is_taken_over(left, tmp_path):
    (tmp_path / LOCK).write_text(left)
    with run_lock(tmp_path):
        pass


def record(**changes: object) -> str:
    values = {"process": 7, "host": socket.gethostname(), "boot": "x", "started": "2026-01-02T03:04:05+00:00"}
    return json.dumps(values | changes)


def test_the_record_of_another_machine_stays_until_somebody_removes_it(tmp_path):
    (tmp_path / LOCK).write_text(record(host="another"))
    with (
        pytest.raises(RunInUse, match=r"process 7 on another, since 2026-01-02.*remove .*run\.lock"),
        run_lock(tmp_path),
    ):
        pass
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "another"
    (tmp_path / LOCK).unlink()
    with run_lock(tmp_path):
        pass


def test_what_is_handed_out_again_takes_over_from_another_machine(tmp_path, monkeypatch):
    (tmp_path / LOCK).write_text(record(host="another", handed_out=True))
    with pytest.raises(RunInUse, match="on another machine"), run_lock(tmp_path):
        pass
    monkeypatch.setenv(HANDED_OUT, "1")
    with run_lock(tmp_path) as lock:
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
        lock.check()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("changes", [{}, {"handed_out": False}])
def test_what_is_handed_out_does_not_take_over_from_a_training_by_hand(changes, holder, tmp_path, monkeypatch):
    monkeypatch.setenv(HANDED_OUT, "1")
    (tmp_path / LOCK).write_text(record(host="another", **changes))
    with pytest.raises(RunInUse, match="on another machine"), run_lock(tmp_path):
        pass
    (tmp_path / LOCK).unlink()
    monkeypatch.delenv(HANDED_OUT)
    process = holder(tmp_path)
    monkeypatch.setenv(HANDED_OUT, "1")
    with pytest.raises(RunInUse, match=f"is running.*{process.pid}"), run_lock(tmp_path):
        pass


def test_what_is_handed_out_again_replaces_a_lock_that_is_held(holder, tmp_path, monkeypatch):
    """A file server may hold that of a dead machine for a while."""
    process = holder(tmp_path, **{HANDED_OUT: "1"})
    with pytest.raises(RunInUse, match=f"is running.*{process.pid}"), run_lock(tmp_path):
        pass
    monkeypatch.setenv(HANDED_OUT, "1")
    with run_lock(tmp_path) as lock:
        process.communicate("", timeout=60)
        assert process.returncode == 0
        assert [path.name for path in tmp_path.iterdir()] == [LOCK], "the one before has left it there"
        lock.check()
        monkeypatch.delenv(HANDED_OUT)
        with pytest.raises(RunInUse, match=f"is running.*{os.getpid()}"), run_lock(tmp_path):
            pass


def test_a_training_whose_folder_was_taken_over_notices(tmp_path):
    with run_lock(tmp_path) as lock:
        mine = (tmp_path / LOCK).read_text()
        (tmp_path / LOCK).write_text(record(host="another", handed_out=True))
        with pytest.raises(RunLost, match=r"now belongs to another training \(process 7 on another, since 2026"):
            lock.check()
        (tmp_path / LOCK).unlink()
        with pytest.raises(RunLost, match=r"is no longer locked: run\.lock is gone; this training ends"):
            lock.check()
        (tmp_path / LOCK).write_text(mine)
        lock.check()


@pytest.mark.parametrize("moment", [1, 3, 4])
def test_a_training_whose_folder_was_taken_over_writes_nothing_more(moment, picture_folder, runs, capsys, monkeypatch):
    """It is taken over before the first epoch, before its state is saved, or after its validation."""
    check, looks = RunLock.check, 0
    before: dict[Path, bytes] = {}

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}

    def taken_over(self):
        nonlocal looks
        looks += 1
        if looks == moment:
            (runs / "a" / LOCK).write_text(record(host="another", handed_out=True))
            before.update(files())
        check(self)

    monkeypatch.setattr(RunLock, "check", taken_over)
    error = failure(capsys, arguments(picture_folder, "a", "--method=standard", epochs=2))
    assert "runs/a now belongs to another training (process 7 on another" in error
    assert looks == moment
    assert files() == before


def test_a_machine_that_started_anew_has_no_process_of_before(tmp_path):
    (tmp_path / LOCK).write_text(record(boot="the boot before"))
    with run_lock(tmp_path):
        pass


def test_another_container_on_this_kernel_is_not_another_machine(tmp_path):
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        pytest.skip("the kernel does not name its boots")
    (tmp_path / LOCK).write_text(record(host="container", boot=boot.read_text().strip()))
    with run_lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with run_lock(tmp_path):
        pass
    assert "has no locks (No locks available)" in capsys.readouterr().err


def test_resuming_beside_a_living_training_is_refused_and_after_its_kill_goes_on(picture_folder, runs, capsys):
    argv = arguments(picture_folder, "a", "--method=standard", epochs=1000)
    process = start_training(argv, runs.parent)
    try:
        deadline = time.monotonic() + 300
        while not (runs / "a" / "log.csv").exists():
            assert time.monotonic() < deadline
            assert process.is_alive()
            time.sleep(0.05)
        before = (runs / "a" / LOCK).read_text()
        for more in ((), ("--resume",)):
            assert f"runs/a belongs to a training that is running (process {process.pid} on" in failure(
                capsys, [*argv, *more]
            )
        assert (runs / "a" / LOCK).read_text() == before
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    error = failure(capsys, [*arguments(picture_folder, "a", "--method=standard", epochs=2), "--resume"])
    assert "runs/a/state.pt belongs to a run with other settings" in error, "the lock is taken over"


def test_a_refused_run_leaves_nothing(picture_folder, runs, capsys):
    failure(capsys, arguments(picture_folder, "a", "--batch-size=1000"))
    assert not runs.exists()
    assert main(arguments(picture_folder, "a", "--method=standard", epochs=1)) == 0
    assert not (runs / "a" / LOCK).exists()
