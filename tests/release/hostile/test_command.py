"""`python -m release.hostile` in miniature: a real server of every format, and servers with a planted fault."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service.server import free_port
from release.hostile import fuzz, report, session
from release.hostile.bombs import BOMBS
from release.hostile.command import RESULT, build_parser, main
from release.hostile.observer import exact, peaks_since, reset_peaks, tree, upper_bound
from release.hostile.report import MEMORY_MB, TOGETHER, exceeded, named_table, profile_table, table, together_table
from release.hostile.seeds import seeds
from sgn_serve.pictures.decoding import FORMATS
from tests.sgn_serve.server import running_server
from tests.sgn_serve.tiny_graph import save_tiny_graph

FILES = 24


@contextmanager
def flawed(fault: str) -> Iterator[list[str]]:
    """Run a server with a planted fault, and yield the options that name it."""
    port = free_port()
    command = [sys.executable, "-m", "tests.release.hostile.flawed_server", str(port), fault]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3])
    try:
        yield ["--server", f"127.0.0.1:{port}", "--pid", str(process.pid), "--no-named"]
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def run(tmp_path, capfd, monkeypatch):
    """Run the command, and return its status, its result and what it said. A busy machine exceeds no bound of time."""
    for bound in ("ANSWER_SECONDS", "SMALL_SECONDS"):
        monkeypatch.setattr(report, bound, float("inf"))

    def run(*options: str) -> tuple[int, Any, str]:
        out = tmp_path / "out" / "hostile.json"
        status = main([*options, "--out", str(out), "--work", str(tmp_path / "work")])
        result = json.loads(out.read_text()) if out.exists() else None
        return status, result, capfd.readouterr().err

    return run


def wait_for(options: list[str]) -> list[str]:
    host, _, port = options[1].rpartition(":")
    for _ in range(200):
        try:
            socket.create_connection((host, int(port))).close()
            return options
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server did not start")


@pytest.mark.thorough
def test_every_format_of_a_real_server(run, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    model = save_tiny_graph(home / "tiny.onnx")
    with running_server(home, SGN_MODEL=str(model), SGN_MAX_PIXELS="1000000") as server:
        address = server.url.removeprefix("http://")
        options = ["--server", address, "--pid", str(server.pid), "--no-named", "--no-together"]
        status, result, said = run(*options, "--files", str(FILES))
    assert status in (0, 1), said
    served = {name for name in FORMATS if name in BOMBS and seeds(name)}
    assert result["formats"].keys() == served
    for name, row in result["formats"].items():
        assert row["files"] == sum(row["statuses"].values()) == FILES
        assert row["faults"] == 0, row["fault_recipes"]
        assert row["statuses"]["200"] > 0
        assert name in table(result)
    assert result["idle_mb"] > 20
    lists = fuzz.read_list(tmp_path / "out" / "hostile" / "sent.jsonl.xz")
    assert {name: len(recipes) for name, recipes in lists.items()} == dict.fromkeys(served, FILES)
    assert not (tmp_path / "work").exists()


def test_a_server_without_a_fault_keeps_every_bound(run):
    with flawed("none") as options:
        status, _, said = run(*wait_for(options), "--formats", "GIF", "--files", "20", "--no-together")
    assert status == 0, said
    assert "every bound holds" in said


@pytest.mark.thorough
def test_the_worst_files_are_sent_together(run):
    with flawed("none") as options:
        _, result, _ = run(*wait_for(options), "--formats", "ICO", "--files", "10")
    together = result["formats"]["ICO"]["together"]
    assert list(together) == list(TOGETHER)
    assert together["32 requests"]["statuses"]["200"] % 32 == 0
    assert together["390 requests"]["statuses"]["200"] % 390 == 0
    assert "| ICO " in together_table(result)


@pytest.mark.thorough
def test_a_planted_answer_of_500_is_found(run):
    with flawed("status") as options:
        status, result, said = run(*wait_for(options), "--formats", "PNG", "--files", "100", "--no-together")
    assert status == 1
    assert result["formats"]["PNG"]["faults"] > 0
    first = result["formats"]["PNG"]["fault_recipes"][0]
    assert f"answers were the server's fault; the first: {first}" in said
    assert first.startswith("500 internal: PNG ")


@pytest.mark.thorough
def test_planted_memory_is_found_and_the_file_named(run, tmp_path):
    with flawed("memory") as options:
        status, result, said = run(*wait_for(options), "--formats", "QOI", "--files", "40", "--no-together")
    assert status == 1
    row = result["formats"]["QOI"]
    assert row["above_idle"] > MEMORY_MB
    assert f"more than {MEMORY_MB:g}" in said
    assert row["worst_megabytes"]["megabytes"] == pytest.approx(400, rel=0.2)
    lists = fuzz.read_list(tmp_path / "out" / "hostile" / "sent.jsonl.xz")
    assert row["worst_megabytes"]["recipe"] in {str(recipe) for recipe in lists["QOI"]}


def test_a_server_that_takes_too_much_is_ended(run):
    with flawed("memory") as options:
        options = [*wait_for(options), "--formats", "QOI", "--files", "40", "--most-gigabytes", "0.2"]
        status, _, said = run(*options)
    assert status == 2
    assert "error: the server was ended: it took more than 0.2 GB" in said


@pytest.mark.thorough
def test_a_stopped_run_goes_on_with_the_same_files(run, tmp_path, monkeypatch):
    rounds: list[str] = []
    real = fuzz.Fuzzer.round

    def stopping(self: fuzz.Fuzzer, file_format: str, number: int, *more: Any) -> None:
        if len(rounds) == 2:
            raise KeyboardInterrupt
        rounds.append(file_format)
        real(self, file_format, number, *more)

    with flawed("none") as options:
        options = [*wait_for(options), "--formats", "BMP", "TGA", "--files", "90", "--no-together"]
        monkeypatch.setattr(fuzz.Fuzzer, "round", stopping)
        status, result, said = run(*options)
        assert (status, result) == (130, None)
        assert said.strip().endswith("the same command goes on from here")
        monkeypatch.setattr(fuzz.Fuzzer, "round", real)
        status, _, said = run(*options[:-1], "--files", "91")
        assert status == 2
        assert "other options" in said
        status, result, _ = run(*options)
    assert status == 0
    assert {row["files"] for row in result["formats"].values()} == {90}
    lists = fuzz.read_list(tmp_path / "out" / "hostile" / "sent.jsonl.xz")
    assert {len(recipes) for recipes in lists.values()} == {90}


@pytest.mark.thorough
def test_a_list_can_be_sent_again(run, tmp_path):
    with flawed("none") as options:
        options = [*wait_for(options), "--formats", "GIF", "--no-together"]
        run(*options, "--files", "30")
        sent = tmp_path / "sent.jsonl.xz"
        (tmp_path / "out" / "hostile" / "sent.jsonl.xz").rename(sent)
        _, result, _ = run(*options, "--files", "20", "--replay", str(sent), "--in-flight", "1")
    again = fuzz.read_list(tmp_path / "out" / "hostile" / "sent.jsonl.xz")["GIF"]
    assert (result["files"], result["in_flight"]) == (20, 1)
    assert again == fuzz.read_list(sent)["GIF"][:20]


@pytest.mark.thorough
def test_a_finished_run_that_goes_on_keeps_what_its_files_were_tried_with(run, tmp_path):
    then = {"versions": {"python": "3.0"}, "processor": "another", "cores": 64, "in_flight": 7}
    out, work = tmp_path / "out" / "hostile.json", tmp_path / "work"
    sent, elsewhere = out.with_suffix("") / "sent.jsonl.xz", tmp_path / "elsewhere.xz"
    with flawed("none") as options:
        options = [*wait_for(options), "--formats", "GIF", "--files", "10", "--no-together"]
        _, first, _ = run(*options)
        out.write_text(json.dumps(first | then))
        options += ["--again", str(out)]
        sent.rename(elsewhere)
        for _ in range(2):  # the second time, too: no state says that the list is there
            status, _, said = run(*options)
            assert status == 2
            assert said.startswith(f"error: --again {out}: the list of its files cannot be read (")
            assert len(said.splitlines()) == 1
        elsewhere.rename(sent)
        _, result, _ = run(*options)
    assert {name: result[name] for name in then} == then
    now = {name: first[name] for name in ("versions", "processor", "cores")}
    assert {name: result[f"together_{name}"] for name in now} == now
    assert (result["formats"], result["files"]) == (first["formats"], 10)
    assert len(fuzz.read_list(sent)["GIF"]) == 10
    assert not work.exists()


@pytest.mark.thorough
def test_a_format_of_a_finished_run_is_tried_anew(run, tmp_path):
    out = tmp_path / "out" / "hostile.json"
    sent = out.with_suffix("") / "sent.jsonl.xz"
    with flawed("none") as options:
        options = [*wait_for(options), "--files", "10", "--no-together", "--no-named"]
        _, first, _ = run(*options, "--formats", "GIF", "BMP")
        before = fuzz.read_list(sent)
        for row in first["formats"].values():
            row["above_idle"] = 77.7  # a row that is kept shows it, one that is measured anew does not
        out.write_text(json.dumps(first))
        _, result, _ = run(*options, "--again", str(out), "--anew", "BMP", "--seed", "1")
    assert (result["formats"]["GIF"]["above_idle"], result["files"]) == (77.7, 20)
    assert result["formats"]["BMP"]["above_idle"] != 77.7
    again = fuzz.read_list(sent)
    assert again["GIF"] == before["GIF"]
    assert again["BMP"] != before["BMP"]
    assert {len(recipes) for recipes in again.values()} == {10}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--server", "127.0.0.1:1"], "--server and --pid go together"),
        (["--server", "here", "--pid", "1"], "expected HOST:PORT"),
        (["--files", "-1"], "--files must be 0 or more"),
        (["--in-flight", "0"], "--in-flight must be 1 or more"),
        (["--replay", "missing.xz"], "no such file"),
        (["--before", "missing"], "no checkout of this project"),
        (["--anew", "GIF"], "--anew goes with --again"),
        (["--replay", __file__], "no list of files that were sent"),
        (["--corpus", __file__], "no archive of a corpus"),
        (["--again", __file__, "--replay", str(RESULT.with_suffix("") / "sent.jsonl.xz")], "no result of a run"),
    ],
)
def test_options_that_cannot_work_are_one_line(run, options, told):
    status, result, said = run(*options)
    assert (status, result) == (2, None)
    assert said.startswith("error: ")
    assert told in said
    assert len(said.splitlines()) == 1


def test_a_programming_error_keeps_its_traceback(run, monkeypatch):
    def broken(*_):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(fuzz, "trim_list", broken)
    with pytest.raises(ValueError, match="a mistake of ours"):
        run()


def test_every_option_is_explained():
    assert all(action.help for action in build_parser()._actions)


def test_memory_that_two_processes_share_counts_once():
    code = (
        "import os, sys, time; kept = bytearray(b'x' * 60_000_000); child = os.fork(); "
        "print(len(kept), flush=True) if child else None; time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = tree(process.pid)
        shared, apart = exact(pids) / 1e6, upper_bound(pids) / 1e6
        before = reset_peaks(pids)
        grown = peaks_since(before)
        for pid in reversed(pids):
            subprocess.run(["kill", "-9", str(pid)], check=True)
    assert len(pids) == 2
    assert 60 < shared < 90
    assert apart > 120
    assert grown < 20e6


def test_bounds_are_told_by_format() -> None:
    tally = fuzz.Tally(files=3, statuses={"200": 2, "500": 1}, faults=1, above_idle=301.0, small_seconds=1.5)
    tally.fault_recipes.append("500 internal: PNG seed 1")
    cost = session.Cost({"200": 16}, 10.0, 20.0, 5.1, 0.2, 0, 2, 0, False, 5.2, 1.5, 0.4)
    tally.together["16 requests"] = vars(cost)
    lines = exceeded({"formats": {"PNG": vars(tally)}, "named": {}})
    small = "2 small pictures beside it were neither answered nor told when to come back"
    assert lines == [
        "PNG: 1 answers were the server's fault; the first: 500 internal: PNG seed 1",
        "PNG: memory beyond idle, MB: 301, more than 300",
        "PNG: longest answer, s: 5.1, more than 5",
        "PNG: wait of a small picture, s: 1.5, more than 1",
        f"PNG: {small}",
    ]
    assert not exceeded({"formats": {"PNG": vars(fuzz.Tally(files=1, statuses={"200": 1}))}, "named": {}})
    named = {"now": {"rows": {"a bomb": {"bytes": 49, "alone": vars(cost)}}}}
    assert exceeded({"formats": {}, "named": named}) == [
        "a bomb: longest answer, s: 5.1, more than 5",
        f"a bomb: {small}",
    ]


def test_the_profile_of_a_crowd_is_that_of_its_longest_answer():
    slow = vars(session.Cost({"200": 1}, 10.0, 20.0, 5.1, 0.2, 0, 0, 0, False, 5.2, 1.5, 0.4))
    quick = vars(session.Cost({"200": 1}, 90.0, 20.0, 1.1, 0.2, 0, 0, 0, False, 9.9, 1.9, 0.9))
    both = fuzz._worse(slow, quick)
    assert both == fuzz._worse(quick, slow)
    assert (both["megabytes"], both["elapsed"], both["server_cores"], both["sender_cores"]) == (90.0, 5.2, 1.5, 0.4)
    tally = fuzz.Tally(together={"128 requests": both})
    assert "| PNG | 5.1 | 1.50 | 0.40 | - | - | - |" in profile_table({"formats": {"PNG": vars(tally)}})


def test_the_named_table_shows_both_versions():
    cost = vars(session.Cost({"200": 1}, 10.0, 20.0, 5.1, 0.2, 0, 0, 0, False, 5.2, 1.5, 0.4))
    ended = cost | {"above_idle": 7000.0, "killed": True}
    sides = {
        "before": {"rows": {"bomb": {"bytes": 49, "alone": cost, "sixteen requests": ended}}},
        "now": {"rows": {"bomb": {"bytes": 49, "alone": cost}}},
    }
    shown = named_table({"named": sides})
    assert "| bomb | 49 | over 7,000 | 20 | over 5.10 | 5.10 | over 0.20 | 0.20 |" in shown
