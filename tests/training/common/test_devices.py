import pytest
import torch

from training.common import devices
from training.common.devices import DeviceError, check_threads, checked_device, device_name

CPU = torch.device("cpu")


def machine_with(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


def test_what_is_there_may_be_named(monkeypatch):
    machine_with(monkeypatch, gpus=2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert checked_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:2", "cuda:-1", "cuda:x", "meta", ""])
def test_what_is_not_there_is_refused_with_what_is(name, monkeypatch):
    machine_with(monkeypatch, gpus=2)
    message = f"^--device {name}: no such device here; pass --device cpu or --device cuda or --device cuda:0 or "
    with pytest.raises(DeviceError, match=message):
        checked_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda", "cuda:0"])
def test_without_a_gpu_there_is_the_cpu(name, monkeypatch):
    machine_with(monkeypatch, gpus=0)
    with pytest.raises(DeviceError, match=f"^--device {name}: .* finds no GPU that it can use; pass --device cpu$"):
        checked_device(name)


def test_results_name_a_gpu_by_its_model(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model of {device}")
    assert device_name(torch.device("cuda:1")) == "model of cuda:1"
    assert device_name(CPU) == "cpu"


def test_threads():
    check_threads(None)
    check_threads(1)
    for count in (0, -1):
        with pytest.raises(DeviceError, match=f"--threads must be at least 1, not {count}; leave it away"):
            check_threads(count)
    with pytest.raises(DeviceError, match=r"^--threads must not be 4000: this process may use .*; give .* at most, or"):
        check_threads(4000)
    check_threads(4000, elsewhere=True)
    with pytest.raises(DeviceError, match="--threads must be at most 4096"):
        check_threads(5000, elsewhere=True)


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
