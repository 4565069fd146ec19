"""Test what every stage shares."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from release.gpu.stage import Skip
from tests.release.gpu.rehearsals import run_of, settings_in


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_real_run_says_so_and_trains_nothing(tmp_path: Path) -> None:
    with pytest.raises(Skip, match="no NVIDIA GPU that PyTorch can use; for a try on the CPU pass --rehearse"):
        run_of("attacks", replace(settings_in(tmp_path), rehearse=False)).device()
