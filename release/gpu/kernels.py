"""Build the fused kernels with nvcc for the tests and the benchmark, without a virtual environment."""

import shutil
import sys
import time

from benchmarks.command_line import ROOT
from release.gpu.stage import Run, Skip, main
from release.gpu.supervise import supervise

COMMAND = ("make", "--no-print-directory", "-C", "export/kernels", f"PYTHON={sys.executable}")


def build(run: Run) -> None:
    """Run the kernels' Makefile with CUDA=1. A rehearsal runs only its check that the build can work.

    Raises:
        Skip: make or nvcc is missing.
        RuntimeError: The build failed.
    """
    for tool in ("make",) if run.rehearse else ("make", "nvcc"):
        if shutil.which(tool) is None:
            raise Skip(f"{tool} is missing, so the fused kernels cannot be built")
    began = time.monotonic()
    outcome = supervise([*COMMAND, *(("check", "CUDA=0") if run.rehearse else ("-j2", "CUDA=1"))], 3600, run.log)
    if outcome.status != 0:
        raise RuntimeError(" / ".join(outcome.tail[-3:]))
    libraries = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "build" / "kernels").glob("torch-*/*.so"))
    seconds = round(time.monotonic() - began, 1)
    says = (
        "everything that the build needs is installed; a rehearsal builds nothing"
        if run.rehearse
        else f"built in {seconds} s"
    )
    run.record(says, build_seconds=seconds, libraries=libraries)


if __name__ == "__main__":
    sys.exit(main(build))
