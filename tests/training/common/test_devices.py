import pytest
import torch

from training.common.devices import DeviceError, check_threads, checked_device


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


def test_threads():
    check_threads(None)
    check_threads(1)
    for count in (0, -1):
        with pytest.raises(DeviceError, match=f"--threads must be at least 1, not {count}; leave it away"):
            check_threads(count)
