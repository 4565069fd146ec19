import os
from pathlib import Path

import pytest

from sgn_serve.process.cores import crowded, usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("150000 100000\n", 2), ("50000 100000\n", 1), ("?", 8)],
)
def test_a_quota_counts(tmp_path: Path, written: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(written)
    assert usable_cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1\n", 8), ("300000\n", 3), ("1600000\n", 8)])
def test_so_does_one_of_the_first_version(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == expected


def test_without_control_groups_it_is_the_cores(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


def test_where_a_process_cannot_be_bound_it_is_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


def test_a_few_threads_a_core_are_allowed_and_more_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgn_serve.process.cores.usable_cores", lambda: 2)
    assert crowded(0) == crowded(16) == ""
    assert crowded(17).startswith("this process may use 2 cores, ")
    assert crowded(17).endswith("; give 16 at most")
