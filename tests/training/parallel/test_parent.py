"""Workers end with the torchrun that started them, however that ends."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.training.parallel.test_distributed import arguments
from tests.training.processes import start_torchrun


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_until(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.thorough
def test_workers_end_when_torchrun_is_killed(picture_folder, tmp_path):
    training = [item for item in arguments(picture_folder, "a") if not item.startswith("--epochs")]
    options = ["--standalone", "--nproc-per-node=2", "-m", "training", *training, "--epochs=1000"]
    agent = start_torchrun(options, tmp_path)
    assert agent.pid is not None
    workers: list[int] = []
    try:
        # Saved before the first epoch.
        wait_until((tmp_path / "runs" / "a" / "state.pt").exists)
        workers = children(agent.pid)
        assert len(workers) == 2
        os.kill(agent.pid, signal.SIGKILL)
        agent.join()
        wait_until(lambda: not any(is_running(worker) for worker in workers))
    finally:
        agent.kill()
        for worker in workers:
            if is_running(worker):
                os.kill(worker, signal.SIGKILL)
    # The state that they leave can be taken up.
    assert (tmp_path / "runs" / "a" / "state.pt").exists()


def is_running(process: int) -> bool:
    """A zombie, which nobody has waited for, does not run."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
