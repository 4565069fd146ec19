import pytest
import torch

from training.common import devices

CPU = torch.device("cpu")


def test_peak_memory_grows_with_what_is_held():
    before = devices.peak_memory(CPU)
    assert before > 50 * devices.MIB
    held = torch.ones(before // 4 + 100 * devices.MIB // 4)
    assert devices.peak_memory(CPU) >= before + 50 * devices.MIB
    del held


def test_processes_on_one_machine_share_its_free_memory(monkeypatch):
    monkeypatch.setattr(devices, "_free_on_the_machine", lambda: 8 * devices.GIB)
    monkeypatch.setattr(devices, "_free_in_the_container", lambda: 6 * devices.GIB)
    assert devices.free_memory(CPU) == 6 * devices.GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert devices.free_memory(CPU) == 3 * devices.GIB
    assert devices.gib(3 * devices.GIB) == "3.0 GiB"


@pytest.mark.parametrize(("limit", "free"), [("1000\n", 700), ("200\n", 0), ("max\n", None)])
def test_a_container_counts_by_its_limit(limit, free, tmp_path):
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.stat").write_text("anon 300\nfile 5000\n")
    assert devices._free_in_the_container(tmp_path) == free
    assert devices._free_in_the_container(tmp_path / "none") is None
