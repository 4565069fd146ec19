"""What figures were measured with."""

import subprocess
from pathlib import Path

from benchmarks.provenance import commit, processor, versions


def test_changes_but_for_results_show(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert commit(tmp_path) == "", "no checkout"
    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/figures.json"):
        (tmp_path / name).write_text("a")
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    clean = commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "results" / "figures.json").write_text("b")
    assert commit(tmp_path) == clean
    (tmp_path / "code.py").write_text("b")
    assert commit(tmp_path) == f"{clean}+changes"


def test_versions_and_processor(tmp_path: Path) -> None:
    found = versions(["pytest", "no-such-package"])
    assert found["no-such-package"] == "not installed"
    assert found["pytest"][0].isdigit()
    assert found["python"].startswith("3.")
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : Fast 9000\nflags : fpu avx2 avx512_bf16\n\n")
    assert processor(tmp_path / "cpuinfo") == "Fast 9000 (avx2, avx512_bf16)"
    assert processor(tmp_path / "none")
