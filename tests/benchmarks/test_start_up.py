"""The benchmark of start-up: which commands it measures, and what it does with a command that fails."""

import json

import pytest

from benchmarks import start_up
from benchmarks.errors import BenchmarkError
from sgn.command import COMMANDS


def test_the_least_time_of_each_command_counts(monkeypatch, tmp_path, capsys):
    turns: list[tuple[str, ...]] = []

    def seconds_of(arguments: tuple[str, ...], status: int) -> float:
        turns.append(arguments)
        assert status == (0 if "--help" in arguments else 2)
        return 3.0 - turns.count(arguments) if turns.count(arguments) < 3 else 2.5

    monkeypatch.setattr(start_up, "seconds_of", seconds_of)
    assert start_up.main([f"--out={tmp_path / 'x.json'}", "--rounds=3"]) == 0
    result = json.loads((tmp_path / "x.json").read_text())
    assert set(result["seconds"].values()) == {1.0}
    assert {f"sgn {name} --help" for name in COMMANDS} < set(result["seconds"])
    assert sum("--help" not in name for name in result["seconds"]) == len(start_up.REFUSALS) == 3
    assert "| `sgn train --help`" in capsys.readouterr().out


def test_a_command_that_ends_otherwise_is_an_error():
    assert start_up.seconds_of(("--help",), 0) > 0
    with pytest.raises(BenchmarkError, match="sgn trian: ended with 2, not 0: error: unknown command 'trian'"):
        start_up.seconds_of(("trian",), 0)
