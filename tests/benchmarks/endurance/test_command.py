"""The endurance run: a short one with real servers behind nginx, and how its result grows, without them."""

import json
from pathlib import Path

import pytest

from benchmarks.command_line import write_result
from benchmarks.endurance import command
from benchmarks.endurance.clients import Tally
from benchmarks.endurance.command import EVENTS, Plan, add_cycle, main, new_result, read_result
from benchmarks.endurance.proxy import nginx_is_there
from benchmarks.errors import BenchmarkError
from tests.sgn_serve.tiny_graph import save_tiny_graph

PLAN = Plan("abc", requests=100, cycles=2, servers=2, clients=2)


@pytest.mark.thorough
@pytest.mark.skipif(not nginx_is_there(), reason="nginx is not there: apt-get install nginx-light")
def test_nothing_is_lost_in_a_cycle_of_restart_reload_and_killed_worker(tmp_path: Path) -> None:
    graph = save_tiny_graph(tmp_path / "tiny.onnx")
    out = tmp_path / "endurance.json"
    options = ["--requests", "90", "--cycles", "1", "--servers", "2", "--clients", "3"]
    status = main(["--graph", str(graph), "--out", str(out), *options])
    result = json.loads(out.read_text())
    assert (result["failures"], result["examples"]) == (0, [])
    assert (status, result["complete"], result["cycles_done"]) == (0, True, 1)
    assert result["requests"] >= 90


def test_failures_are_counted_by_what_happened_meanwhile() -> None:
    result = new_result(PLAN, "x")
    tally = Tally(answered=40)
    tally.fail("503", "overloaded")
    tally.event = "reload"
    tally.fail("503", "not ready")
    tally.fail("IncompleteReadError", "")
    add_cycle(result, tally, 1.5)
    add_cycle(result, Tally(answered=50), 2.5)
    assert (result["requests"], result["failures"], result["seconds"]) == (93, 3, 4.0)
    assert result["failures_by_event"]["nothing"] == {"503": 1}
    assert result["failures_by_event"]["reload"] == {"503": 1, "IncompleteReadError": 1}
    assert result["failures_by_event"]["killed worker"] == {}
    assert result["examples"][1] == "during reload: 503: not ready"
    assert result["complete"]


def test_a_run_that_was_interrupted_goes_on_and_one_that_is_complete_begins_anew(tmp_path: Path) -> None:
    out = tmp_path / "results" / "endurance.json"
    result = read_result(out, PLAN, "x")
    add_cycle(result, Tally(answered=50), 1.0)
    write_result(out, result)
    again = read_result(out, PLAN, "x")
    assert (again["cycles_done"], again["requests"], again["complete"]) == (1, 50, False)
    with pytest.raises(BenchmarkError, match="other options that is not complete"):
        read_result(out, Plan("abc", requests=100, cycles=3, servers=2, clients=2), "x")
    add_cycle(again, Tally(answered=50), 1.0)
    write_result(out, again)
    assert read_result(out, PLAN, "x")["cycles_done"] == 0


@pytest.mark.parametrize(
    ("source", "what"), [("commit", "commit abc123"), ("processor", "processor abc123")], ids=["commit", "processor"]
)
def test_a_run_of_another_commit_or_processor_does_not_go_on(
    source: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "endurance.json"
    with monkeypatch.context() as before:
        before.setattr(command, source, lambda: "abc123")
        result = new_result(PLAN, "x")
    add_cycle(result, Tally(answered=50), 1.0)
    write_result(out, result)
    with pytest.raises(BenchmarkError, match=f"not complete, on the {what} and not on this .*: go on with that one, d"):
        read_result(out, PLAN, "x")
    add_cycle(result, Tally(answered=50), 1.0)
    write_result(out, result)
    assert read_result(out, PLAN, "x")["cycles_done"] == 0, "one that is complete begins anew"


def test_every_event_gets_its_share_of_the_requests() -> None:
    assert PLAN.requests_an_event * PLAN.cycles * len(EVENTS) >= PLAN.requests
    assert (PLAN.requests_an_event - 1) * PLAN.cycles * len(EVENTS) < PLAN.requests


def test_a_single_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--servers", "1"])
    assert "--servers must be at least 2" in capsys.readouterr().err
