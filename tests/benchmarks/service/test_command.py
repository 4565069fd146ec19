"""The benchmark of the service: the systems that it compares give the same answers, and how its figures are made."""

import argparse
import base64
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.service import server
from benchmarks.service.command import (
    BUNDLED,
    Rounds,
    Running,
    auto_gains,
    check_precision,
    comparison_table,
    ledger_table,
    main,
    order_of_turns,
    ratios,
    running,
    shares_by_round,
    steps_table,
    summary,
)

PICTURES = ("ship_00.png", "cat_00.png")


def answers_of(system: str, examples: Path) -> dict[str, tuple[str, float]]:
    """Return label and probability for each of PICTURES, from a server of that system."""
    answers = {}
    given: dict[str, Any]
    with (
        running(system, BUNDLED, threads=1) as served,
        httpx.Client(base_url=f"http://127.0.0.1:{served.port}") as client,
    ):
        for name in PICTURES:
            picture = (examples / name).read_bytes()
            if system == "litserve":
                given = {"json": {"image": base64.b64encode(picture).decode()}}
            else:
                given = {"files": {"image": picture}}
            answer = client.post("/classify", timeout=60, **given).raise_for_status().json()
            answers[name] = answer["label"], answer["probability"]
    return answers


@pytest.fixture(scope="module")
def our_answers(project_root: Path) -> dict[str, tuple[str, float]]:
    return answers_of("ours", project_root / "examples")


@pytest.mark.parametrize("system", ["fastapi", "litserve"])
def test_the_others_answer_as_this_service_does(
    system: str, project_root: Path, request: pytest.FixtureRequest
) -> None:
    if importlib.util.find_spec(system) is None:
        pytest.skip(f"{system} is not installed: pip install -e '.[bench]'")
    ours = request.getfixturevalue("our_answers")  # started for none that is skipped
    for name, (label, probability) in answers_of(system, project_root / "examples").items():
        assert ours[name] == (label, pytest.approx(probability, abs=1e-3))


@pytest.mark.thorough
def test_with_auto_the_service_says_so(project_root: Path) -> None:
    picture = (project_root / "examples" / "ship_00.png").read_bytes()
    with running("auto", BUNDLED, threads=1) as served:
        answer = httpx.post(f"http://127.0.0.1:{served.port}/classify", files={"image": picture}, timeout=60).json()
        assert (answer["label"], answer["mode"]) == ("ship", "auto")
        with pytest.raises(
            BenchmarkError, match=r"it serves in float32: SGN_PROVIDERS=cpu .*; leave it out of --systems"
        ):
            check_precision(served.port)


def test_auto_is_compared_with_the_faster_of_the_others() -> None:
    rates = {"this service": 300.0, "this service, auto": 500.0, "FastAPI and ONNX Runtime": 200.0}
    services = {name: {"8": {"requests_per_second": rate}} for name, rate in rates.items()}
    assert auto_gains({"services": services}) == {"this service, auto": {"8": 2.5}}
    services["LitServe and ONNX Runtime"] = {"8": {"requests_per_second": 250.0}}
    assert auto_gains({"services": services}) == {"this service, auto": {"8": 2.0}}
    assert auto_gains({"services": {name: services[name] for name in ("this service", "this service, auto")}}) == {}


def test_the_share_of_the_engine_is_of_the_same_round() -> None:
    ours = [{"requests_per_second": 150.0}, {"requests_per_second": 300.0}]
    assert shares_by_round(ours, [200.0, 600.0]) == [0.75, 0.5]


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a", "b", "c", "d"], ["a", "b", "c", "d", "e"]])
def test_no_name_has_a_better_place_than_another(names: list[str]) -> None:
    places: dict[str, list[int]] = {name: [] for name in names}
    for number in range(2 * len(names)):
        order = order_of_turns(names, number)
        assert sorted(order) == names
        for place, name in enumerate(order):
            places[name].append(place)
        if number % 2 == 1:
            means = {sum(found) / len(found) for found in places.values()}
            assert means == {(len(names) - 1) / 2}, "a drift slows all of them alike"
    for found in places.values():
        assert set(found) == set(range(len(names))), "and each was at every place"


def load(requests_per_second: float) -> dict[str, Any]:
    return {"requests_per_second": requests_per_second, "p50_ms": 1.0, "p99_ms": 2.0}


def test_figures_of_several_rounds() -> None:
    """The machine is half as fast in the second round; the ratios of each round stay."""
    rounds = Rounds(
        loads={
            ("ours", 1): [load(90), load(45), load(80)],
            ("fastapi", 1): [load(100), load(50), load(100)],
        },
        engine={1: [200.0, 100.0, 200.0]},
        ledgers={1: [{"infer": 10, "total": 30}, {"infer": 20, "total": 40}, {"infer": 12, "total": 31}]},
    )
    arguments = argparse.Namespace(systems=["ours", "fastapi"], concurrency=[1])
    told = summary(arguments, rounds)
    assert told["throughput_in_that_of"] == {
        "1": {
            "FastAPI and ONNX Runtime": {"median": 0.9, "by_round": [0.9, 0.9, 0.8]},
            "engine alone": {"median": 0.45, "by_round": [0.45, 0.45, 0.4]},
        }
    }
    assert told["services"]["this service"]["1"] == load(80), "the middle round"
    assert told["ledger_us"] == {"1": {"infer": 12, "total": 31}}
    (line,) = [line for line in ledger_table(told).splitlines() if line.startswith("| 1 ")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["1", "", "", "", "", "12", "", "31", "", "5000"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_service_answers_more_only_where_it_does_by_more_than_noise_in_every_round() -> None:
    fastapi, litserve = "FastAPI and ONNX Runtime", "LitServe and ONNX Runtime"
    compared = {
        "1": {fastapi: {"by_round": [0.826, 0.949]}, "engine alone": {"by_round": [0.5, 0.5]}},
        "8": {fastapi: {"by_round": [1.001, 1.2]}, litserve: {"by_round": [1.051, 1.2]}},
    }
    shown = comparison_table({"throughput_in_that_of": compared}).splitlines()[2:]
    assert [cells(line) for line in shown] == [
        ["1", fastapi, "0.83, 0.95", fastapi],
        ["8", fastapi, "1.00, 1.20", "neither in every round"],
        ["8", litserve, "1.05, 1.20", "this service"],
    ]


def test_the_steps_of_a_request_add_up_to_what_the_client_waits() -> None:
    ledger = {"parse": 50, "decode": 500, "infer": 3000, "serialise": 250, "total": 4000, "client": 5000}
    shown = steps_table({"ledger_us": {"1": ledger}, "engine_alone": {"1": 400.0}})
    table, _, sentences = shown.partition("\n\n")
    rows = {name: int(spent) for name, spent, _ in map(cells, table.splitlines()[2:])}
    assert rows.pop("what the client waits") == 5000 == sum(rows.values())
    assert (rows["between these"], rows["outside of the service"], rows["queue"]) == (200, 1000, 0)
    assert sentences.splitlines() == [
        "Most of the time is infer with 60 %, then outside of the service with 20 % and decode with 10 %.",
        "The client waits 2.5 ms longer than ONNX Runtime alone takes for a picture (2.5 ms); "
        "at most 1.0 ms was aimed for.",
    ]


def test_ratios_are_of_the_same_round() -> None:
    assert ratios([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == {"median": 2.0, "by_round": [1.0, 2.0, 3.0]}


def test_a_server_that_is_not_measured_takes_no_time(tmp_path: Path) -> None:
    """A program that computes for ever stands still while it is suspended, and ends when it is told to."""
    program = "while True: pass"
    with server.running([sys.executable, "-c", program], dict(os.environ), tmp_path / "log") as process:
        served = Running(0, process)
        watched = psutil.Process(process.pid)
        with served.awake():
            assert watched.status() != psutil.STATUS_STOPPED
        deadline = time.monotonic() + 30
        while watched.status() != psutil.STATUS_STOPPED:  # the signal is on its way
            assert time.monotonic() < deadline
        used = sum(watched.cpu_times()[:2])
        for _ in range(10):
            assert sum(watched.cpu_times()[:2]) == used
        server.resume(process)
    assert process.returncode is not None


def test_an_engine_without_connections_beside_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--batches", "1", "16", "--concurrency", "1", "8"])
    assert "--batches 16 has no such number of connections beside it" in capsys.readouterr().err


def test_sigterm_ends_the_servers_too(tmp_path: Path) -> None:
    """A signal that killed the benchmark at once would leave its servers behind: they have sessions of their own."""
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(SystemExit) as left,
        server.ended_by_sigterm(),
        server.running(["sleep", "1000"], dict(os.environ), tmp_path / "log") as started,
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.value.code == 143
    assert started.returncode is not None
    assert signal.getsignal(signal.SIGTERM) is before
