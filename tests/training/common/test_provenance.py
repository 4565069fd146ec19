"""The commit of a result, and whether anything in the repository differs from it."""

import subprocess
from pathlib import Path

import pytest

from training.common import provenance
from training.common.provenance import git_commit


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    ran = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return ran.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with three packages and the folder of results."""
    for name in ("training/common", "sgn_serve", "results"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All of it")
    return tmp_path


def test_a_change_in_any_package_counts(checkout):
    folder = checkout / "training" / "common"
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert git_commit(folder) == commit
    (checkout / "sgn_serve" / "new.py").write_text("untracked")
    assert git_commit(folder) == commit
    (checkout / "sgn_serve" / "file.py").write_text("changed")
    assert git_commit(folder) == f"{commit}+changes"


def test_ignored_folders_do_not_count(checkout):
    folder = checkout / "training" / "common"
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    (checkout / "results" / "file.py").write_text("changed")
    assert git_commit(folder) == f"{commit}+changes"
    assert git_commit(folder, ignore=("results",)) == commit
    (checkout / "training" / "common" / "file.py").write_text("changed")
    assert git_commit(folder, ignore=("results",)) == f"{commit}+changes"


def test_there_is_no_commit_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) == ""
    assert git_commit(tmp_path / "no such folder") == ""


def test_the_default_is_this_programs_own_checkout(project_root):
    assert git_commit() == git_commit(project_root)
    assert Path(provenance.__file__).is_relative_to(project_root)
