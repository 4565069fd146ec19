"""Provenance of figures: the commit, the packages, the processor."""

import subprocess
import sys
from pathlib import Path

from benchmarks.provenance import commit, processor, versions
from training.common.provenance import git_commit


def test_the_commit_is_this_checkouts_whatever_results_hold(project_root: Path) -> None:
    assert commit() == git_commit(project_root, ignore=("results",))


def test_versions_and_processor(tmp_path: Path) -> None:
    found = versions(["pytest", "no-such-package"])
    assert found["no-such-package"] == "not installed"
    assert found["pytest"][0].isdigit()
    assert found["python"].startswith("3.")
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : Fast 9000\nflags : fpu avx2 avx512_bf16\n\n")
    assert processor(tmp_path / "cpuinfo") == "Fast 9000 (avx2, avx512_bf16)"
    assert processor(tmp_path / "none")


def test_the_benchmark_of_the_service_needs_no_pytorch(project_root: Path) -> None:
    program = "import sys, benchmarks.service.command; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
