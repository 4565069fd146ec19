"""Compare the throughput of two checkouts."""

import json
import math
import subprocess

import pytest

from benchmarks.command_line import ROOT
from benchmarks.errors import BenchmarkError
from benchmarks.service.server import free_port
from release import throughput
from release.hostile.server import Server
from release.throughput import BEFORE, DEFAULT, NOW, ratios, throughput_table

ROUNDS = [{BEFORE: 100.0, NOW: 90.0, DEFAULT: 150.0}, {BEFORE: 50.0, NOW: 50.0, DEFAULT: 100.0}]


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert ratios(ROUNDS) == {
        NOW: {"median": 0.95, "by_round": [0.9, 1.0]},
        DEFAULT: {"median": 1.75, "by_round": [1.5, 2.0]},
    }


def test_a_line_for_each_number_of_connections() -> None:
    row = {"rounds": ROUNDS, "ratios": ratios(ROUNDS)}
    last = throughput_table({"connections": {"1": row, "8": row}}).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == ["8", "75", "70", "125", "0.95", "1.75"]


@pytest.fixture
def _never_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_resume", "_suspend"):
        monkeypatch.setattr(throughput, name, lambda server: None)


@pytest.mark.usefixtures("_never_suspended")
def test_a_load_generator_that_fails_is_an_error() -> None:
    """No server runs: the load generator meets a closed port."""
    with pytest.raises(BenchmarkError, match="the load generator: "):
        throughput.load(Server("127.0.0.1", free_port(), 0), 1, 0.1)


@pytest.mark.usefixtures("_never_suspended")
@pytest.mark.parametrize("statuses", [{"503": 1}, {"200": 9, "503": 1}, {}])
def test_a_server_that_answers_with_errors_is_an_error(
    monkeypatch: pytest.MonkeyPatch, statuses: dict[str, int]
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        summary = {"statuses": statuses, "requests_per_second": 100.0}
        return subprocess.CompletedProcess(command, 0, json.dumps(summary), "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(BenchmarkError, match=r"not all answers were 200: \{"):
        throughput.load(Server("127.0.0.1", 1, 0), 1, 0.1)


@pytest.mark.slow
def test_the_service_beside_itself(tmp_path) -> None:
    """The whole way, with this checkout as the one before."""
    out = tmp_path / "throughput.json"
    arguments = ["--before", str(ROOT), "--rounds", "1", "--seconds", "0.3", "--out", str(out)]
    assert throughput.main(arguments) == 0
    found = json.loads(out.read_text())["connections"]
    assert set(found) == {"1", "8", "32"}
    assert all(math.isfinite(row["ratios"][NOW]["median"]) for row in found.values())
