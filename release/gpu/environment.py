"""Record the machine: card, driver, versions, processors."""

import os
import shutil
import subprocess
import sys

import torch

from benchmarks.provenance import processor, versions
from release.gpu.stage import Run, main

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "scipy",
    "safetensors",
    "pyautoattack",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "bentoml",
    "pytest",
)
QUERY = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
"""Fields that `nvidia-smi` is asked for."""


def report(run: Run) -> None:
    """Record the machine.

    The card's name is the one that PyTorch reports, because `nvidia-smi` may show a card that is hidden from PyTorch.
    """
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    run.record(
        f"{card}, PyTorch {torch.__version__}, {os.cpu_count()} cores",
        card=card,
        nvidia_smi=first_output_line("nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"),
        nvcc=last_line("nvcc", "--version"),
        cuda_of_pytorch=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        processor=processor(),
        cores=os.cpu_count(),
        versions=versions(PACKAGES),
    )


def first_output_line(*command: str) -> str:
    """Return the first line that a program prints, or "" if it is missing or fails."""
    return next(iter(_output(*command)), "")


def last_line(*command: str) -> str:
    """Return the last line that a program prints, or "" if it is missing or fails."""
    return (_output(*command) or [""])[-1]


def _output(*command: str) -> list[str]:
    """Return the lines that a program prints, or none if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return []
    found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return found.stdout.strip().splitlines() if found.returncode == 0 else []


if __name__ == "__main__":
    sys.exit(main(report))
