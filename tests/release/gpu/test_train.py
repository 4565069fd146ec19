"""The two networks that a run trains."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from benchmarks.untrained import untrained_network
from release.gpu.stage import Settings
from release.gpu.train import half_precision
from tests.release.gpu.rehearsals import LARGEST_FILE
from training.checkpoint import load_checkpoint, save_checkpoint


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
