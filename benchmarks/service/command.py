"""Measure throughput and latency of the service, of two others on the same graph, and of the engine alone, in one run.

    pip install --editable '.[bench]'
    python -m benchmarks.service

Writes results/service.json. All systems serve the same graph with the same threads. benchmarks/service/load.py, a
process of its own on the same machine, sends the example pictures (PNG files) over 1, 8, 32 and 128 connections.

A round is one short load of each system, and of the engine alone, one directly after the other. Every second round goes
backwards, and every pair of rounds begins with another system. A machine that becomes slower thus slows all of them
alike, and ratios within a round hold. The servers run from the beginning to the end; those that are not being measured
are suspended, for an idle one may take time too.

The engine alone is ONNX Runtime on batches of decoded pictures: the most that a service on this machine could reach.
In each round the service also tells the ledger of its requests, beside what the engine alone takes for a picture.

Two of the systems are this service with self_gradient=auto, in float32 and in what SGN_ENGINE=auto chooses. The block
of all others is always on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, thread_count, write_result
from benchmarks.errors import BenchmarkError
from benchmarks.provenance import commit, processor, versions
from benchmarks.service import server
from benchmarks.service.server import free_port, service_command, service_environment, wait_until_ready
from sgn_serve.common import markdown
from sgn_serve.common.error_text import say
from sgn_serve.telemetry.ledger import STAGES

RESULT = ROOT / "results" / "service.json"
BUNDLED = ROOT / "sgn_serve" / "bundled" / "model.onnx"
SYSTEMS = {
    "ours": "this service",
    "auto": "this service, auto",
    "auto-bf16": "this service, auto, OpenVINO in bfloat16",
    "fastapi": "FastAPI and ONNX Runtime",
    "litserve": "LitServe and ONNX Runtime",
}
ON_CPU = {"SGN_PROVIDERS": "cpu"}
OURS: dict[str, dict[str, str]] = {
    "ours": ON_CPU,
    "auto": {**ON_CPU, "SGN_SELF_GRADIENT": "auto"},
    "auto-bf16": {"SGN_ENGINE": "auto", "SGN_SELF_GRADIENT": "auto"},
}
"""Settings of this service under each of its names. The block of all others, and of the first, is always on."""
ENGINE, LEDGER = "engine", "ledger"
"""Contenders besides the systems: the engine alone, and this service while it tells its ledger."""
AT = 32
"""Number of connections, and batch size of the engine, at which the service is compared with the engine."""
NOISE = 0.05
"""A difference of this share or less is noise on a shared machine."""
MOST_OVER_ENGINE_MS = 1.0
"""Aim: how much longer a client at one connection waits than the engine alone takes."""
START_LIMIT_SECONDS = 120
PACKAGES = ("bentoml", "starlette", "uvicorn", "onnxruntime", "fastapi", "litserve", "uvloop", "httptools")


def server_command(system: str, graph: Path, port: int, threads: int) -> list[str]:
    """Return the command that starts a system's server. This service reads graph and threads from its environment."""
    if system in OURS:
        return service_command(port)
    return [sys.executable, "-m", f"benchmarks.service.servers.{system}_server", str(graph), str(port), str(threads)]


@dataclass(frozen=True)
class Running:
    """A system's server that runs.

    Attributes:
        port: Where it listens.
        process: Its process.
    """

    port: int
    process: "subprocess.Popen[bytes]"

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Resume the server for the block, and suspend it afterwards."""
        server.resume(self.process)
        try:
            yield
        finally:
            server.suspend(self.process)


def check_precision(port: int) -> None:
    """Check that this service has chosen bfloat16.

    Raises:
        BenchmarkError: It has not; the message says why.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/model", timeout=5) as answer:
        engine = json.load(answer)["engine"]
    if engine["precision"] != "bf16":
        raise BenchmarkError(f"it serves in {engine['precision']}: {engine['reason']}; leave it out of --systems")


@contextmanager
def running(system: str, graph: Path, threads: int) -> Iterator[Running]:
    """Run a system's server until the block ends.

    Raises:
        BenchmarkError: It does not start.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        settings = {
            "SGN_MODEL": str(graph),
            "SGN_THREADS": str(threads),
            **OURS.get(system, {}),
            "SGN_ACCESS_LOG": "false",  # the others log no requests either
        }
        log = Path(home) / "log"
        command = server_command(system, graph, port, threads)
        with server.running(command, service_environment(Path(home), **settings), log) as process:
            try:
                wait_until_ready(process, port, log, START_LIMIT_SECONDS)
                if system == "auto-bf16":
                    check_precision(port)
            except BenchmarkError as error:
                raise BenchmarkError(f"{SYSTEMS[system]}: {error}") from None
            try:
                yield Running(port, process)
            finally:
                server.resume(process)  # one that is suspended would not end


def measure(system: str, port: int, concurrency: int, seconds: float, ledger: bool = False) -> dict[str, Any]:
    """Load a running server, and return what the load generator measured.

    Args:
        system: A key of SYSTEMS.
        port: Where its server listens.
        concurrency: The number of connections.
        seconds: How long to measure.
        ledger: Whether to ask for the stages of every request. Only this service tells them.

    Raises:
        BenchmarkError: The load generator failed.
    """
    pictures = [str(path) for path in sorted((ROOT / "examples").glob("*.png"))]
    command = [sys.executable, "-m", "benchmarks.service.load", *pictures, "--port", str(port)]
    command += ["--concurrency", str(concurrency), "--seconds", str(seconds)]
    command += ["--base64"] * (system == "litserve") + ["--ledger"] * ledger
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{SYSTEMS[system]} at concurrency {concurrency}: {done.stderr.strip()[-500:]}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def engine_alone(graph: Path, threads: int, batch: int, seconds: float) -> float:
    """Return how many pictures a second ONNX Runtime answers alone, block on."""
    module = "benchmarks.service.engine"
    command = [sys.executable, "-m", module, str(graph.resolve()), str(threads), str(batch), str(seconds)]
    # A session of its own, as the servers have.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, start_new_session=True)
    return float(done.stdout)


def order_of_turns(names: Sequence[str], number: int) -> list[str]:
    """Return the order of a round: every pair of rounds begins with another name, and its second one goes backwards."""
    begin = number // 2 % len(names)
    turned = [*names[begin:], *names[:begin]]
    return turned if number % 2 == 0 else turned[::-1]


def middle(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the round of median throughput."""
    return sorted(rounds, key=lambda one: one["requests_per_second"])[(len(rounds) - 1) // 2]


def ratios(ours: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """Return this service's throughput in that of another: in each round, and the median of these."""
    each = [round(one / other, 3) for one, other in zip(ours, others, strict=True)]
    return {"median": round(statistics.median(each), 3), "by_round": each}


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, a line for each number of connections and each service."""
    services = result["services"]
    lines = []
    for connections in next(iter(services.values())):
        for name, rows in services.items():
            row = rows[connections]
            cells = [f"{row[key]:.0f}" for key in ("requests_per_second", "p50_ms", "p99_ms")]
            lines.append([connections, name, *cells])
    return markdown.table(("connections", "service", "requests/s", "p50, ms", "p99, ms"), lines, "rlrrr")


def comparison_table(result: dict[str, Any]) -> str:
    """Return the throughput in that of each other service, block always on, as a Markdown table with a verdict."""
    lines = []
    for connections, others in result["throughput_in_that_of"].items():
        for name, found in others.items():
            if name in SYSTEMS.values():
                each = ", ".join(f"{ratio:.2f}" for ratio in found["by_round"])
                lines.append([connections, name, each, _verdict(name, found["by_round"])])
    header = ("connections", "in the answers a second of", "round by round", "more answers")
    return markdown.table(header, lines, "rlll")


def _verdict(other: str, by_round: Sequence[float]) -> str:
    """Return which service answers more by more than noise, in every round."""
    if min(by_round) > 1 + NOISE:
        return "this service"
    return other if max(by_round) < 1 - NOISE else "neither in every round"


def steps_table(result: dict[str, Any]) -> str:
    """Return where the time of a request goes at one connection: a Markdown table, and a sentence on the longest steps.

    The client's time is the load generator's. What it is longer than the total lies outside of the service.
    """
    ledger = result["ledger_us"]["1"]
    client = ledger["client"]
    steps = {stage: ledger.get(stage, 0) for stage in STAGES}
    steps["between these"] = ledger["total"] - sum(steps.values())
    steps["outside of the service"] = client - ledger["total"]
    lines = [[name, str(spent), f"{100 * spent / client:.0f}"] for name, spent in steps.items()]
    lines.append(["what the client waits", str(client), "100"])
    shown = markdown.table(("step", "microseconds", "%"), lines, "lrr")
    first, second, third = sorted(steps, key=steps.__getitem__, reverse=True)[:3]
    shares = {name: f"{100 * steps[name] / client:.0f} %" for name in (first, second, third)}
    alone = 1e6 / result["engine_alone"]["1"]
    return (
        f"{shown}\n\nMost of the time is {first} with {shares[first]}, then {second} with {shares[second]} and "
        f"{third} with {shares[third]}.\nThe client waits {(client - alone) / 1000:.1f} ms longer than ONNX Runtime "
        f"alone takes for a picture ({alone / 1000:.1f} ms); at most {MOST_OVER_ENGINE_MS:.1f} ms was aimed for."
    )


def ledger_table(result: dict[str, Any]) -> str:
    """Return the ledger as a Markdown table: the median microseconds of each stage, and of the engine for a picture."""
    columns = ("connections", *STAGES, "total", "client", "engine alone")
    lines = []
    for connections, stages in result["ledger_us"].items():
        alone = result["engine_alone"].get(connections)
        engine = "" if alone is None else f"{1e6 / alone:.0f}"
        lines.append([connections, *(str(stages.get(name, "")) for name in columns[1:-1]), engine])
    return markdown.table(columns, lines, "r" * len(columns))


def auto_gains(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the throughput of self_gradient=auto in that of the faster of the other services.

    Returns:
        The ratio by this service's name and number of connections. Empty where no other service was measured.
    """
    services = result["services"]
    others = [services[SYSTEMS[name]] for name in SYSTEMS if name not in OURS and SYSTEMS[name] in services]
    return {
        SYSTEMS[name]: {
            connections: row["requests_per_second"] / max(other[connections]["requests_per_second"] for other in others)
            for connections, row in services[SYSTEMS[name]].items()
        }
        for name in ("auto", "auto-bf16")
        if SYSTEMS[name] in services and others
    }


def shares_by_round(ours: Sequence[dict[str, Any]], engine: Sequence[float]) -> list[float]:
    """Return which share of the engine's throughput this service reaches with 32 connections in each round."""
    return [round(one["requests_per_second"] / alone, 3) for one, alone in zip(ours, engine, strict=False)]


def share_of_engine(result: dict[str, Any]) -> float:
    """Return which share of the engine's throughput at batch 32 this service reaches with 32 connections."""
    ours: float = result["services"][SYSTEMS["ours"]][str(AT)]["requests_per_second"]
    return ours / float(result["engine_alone"][str(AT)])


@dataclass
class Rounds:
    """Measurements: a list with one figure a round by system and number of connections.

    Attributes:
        loads: Summaries of the load generator.
        engine: Pictures a second of the engine alone, by batch size.
        ledgers: Median microseconds by stage.
    """

    loads: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
    engine: dict[int, list[float]] = field(default_factory=dict)
    ledgers: dict[int, list[dict[str, int]]] = field(default_factory=dict)

    def throughput(self, system: str, concurrency: int) -> list[float]:
        """Return a system's answers a second in each round."""
        return [one["requests_per_second"] for one in self.loads[system, concurrency]]

    def median_ledger(self, concurrency: int) -> dict[str, int]:
        """Return the median of each stage's medians."""
        found = self.ledgers[concurrency]
        return {stage: round(statistics.median(one.get(stage, 0) for one in found)) for stage in found[0]}


def measure_rounds(arguments: argparse.Namespace) -> Rounds:
    """Run the servers, and measure all rounds.

    Raises:
        BenchmarkError: A server does not start, or a load fails.
    """
    rounds = Rounds()
    graph = arguments.graph.resolve()
    with ExitStack() as stack:
        servers = {}
        for system in arguments.systems:
            servers[system] = stack.enter_context(running(system, graph, arguments.threads))
            server.suspend(servers[system].process)
        names = [ENGINE, *servers, *([LEDGER] if "ours" in servers else [])]
        for number in range(arguments.rounds):
            for concurrency in arguments.concurrency:
                for name in order_of_turns(names, number):
                    if name == ENGINE:
                        if concurrency in arguments.batches:
                            alone = engine_alone(graph, arguments.threads, concurrency, arguments.seconds)
                            rounds.engine.setdefault(concurrency, []).append(alone)
                        continue
                    system = "ours" if name == LEDGER else name
                    with servers[system].awake():
                        port = servers[system].port
                        one = measure(system, port, concurrency, arguments.seconds, ledger=name == LEDGER)
                    if name == LEDGER:
                        rounds.ledgers.setdefault(concurrency, []).append(one["ledger_us"])
                    else:
                        rounds.loads.setdefault((system, concurrency), []).append(one)
                    say(f"round {number + 1}, {name}, concurrency {concurrency}: {one}")
    return rounds


def summary(arguments: argparse.Namespace, rounds: Rounds) -> dict[str, Any]:
    """Return what is written: for each system and number of connections the middle round, and ratios of all rounds."""
    others = [system for system in arguments.systems if system not in OURS]
    compared = {}
    if "ours" in arguments.systems:
        for concurrency in arguments.concurrency:
            ours = rounds.throughput("ours", concurrency)
            row = {SYSTEMS[other]: ratios(ours, rounds.throughput(other, concurrency)) for other in others}
            if concurrency in rounds.engine:
                row["engine alone"] = ratios(ours, rounds.engine[concurrency])
            compared[str(concurrency)] = row
    return {
        "engine_alone": {str(batch): round(statistics.median(values), 1) for batch, values in rounds.engine.items()},
        "services": {
            SYSTEMS[system]: {str(c): middle(rounds.loads[system, c]) for c in arguments.concurrency}
            for system in arguments.systems
        },
        "share_of_engine_by_round": shares_by_round(rounds.loads.get(("ours", AT), []), rounds.engine.get(AT, [])),
        "throughput_in_that_of": compared,
        "ledger_us": {str(concurrency): rounds.median_ledger(concurrency) for concurrency in rounds.ledgers},
    }


@errors_told
def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("benchmarks.service", __doc__)
    parser.add_argument("--graph", type=Path, default=BUNDLED, help="exported graph (default: the bundled one)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="what is measured")
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32, 128], help="connections")
    parser.add_argument(
        "--batches",
        nargs="+",
        type=int,
        default=[1, 8, 32],
        help="batch sizes of the engine alone; each is measured beside as many connections",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each load lasts")
    parser.add_argument(
        "--rounds", type=int, default=6, help="how often every load is measured; the median round counts"
    )
    parser.add_argument(
        "--threads", type=thread_count, default=len(os.sched_getaffinity(0)), help="CPU threads of ONNX Runtime"
    )
    add_out(parser, RESULT)
    arguments = parser.parse_args(command_line)
    unmatched = set(arguments.batches) - set(arguments.concurrency)
    if unmatched:
        parser.error(f"--batches {sorted(unmatched)[0]} has no such number of connections beside it in --concurrency")
    with server.ended_by_sigterm():
        rounds = measure_rounds(arguments)
    result = {
        "command": " ".join(["python -m benchmarks.service", *(sys.argv[1:] if command_line is None else [])]),
        "graph": str(
            arguments.graph.resolve().relative_to(ROOT) if arguments.graph == BUNDLED else arguments.graph.name
        ),
        "processor": processor(),
        "threads": arguments.threads,
        "cores": len(os.sched_getaffinity(0)),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        **summary(arguments, rounds),
        "versions": versions(PACKAGES),
        "git_commit": commit(),
    }
    write_result(arguments.out, result)
    print(json.dumps(result, indent=1))
    print(f"\nMedian microseconds of a request\n\n{ledger_table(result)}", file=sys.stderr)
    return 0
