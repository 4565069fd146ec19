"""Compare the service's throughput with that of another checkout, in one run.

    python -m release.throughput --before CHECKOUT

Writes results/throughput.json. Both serve their bundled network with their default settings. The service of this
checkout also runs on ONNX Runtime in float32, which is all that older ones have. A round is one short load of each, one
directly after the other, and every second round goes backwards. So a machine that becomes slower slows all of them
alike. Servers that are not being measured are suspended.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.errors import BenchmarkError
from benchmarks.provenance import commit, processor, versions
from benchmarks.service.server import ended_by_sigterm
from release.hostile.server import Server, running_server
from sgn_serve.common import markdown
from training.common.provenance import git_commit

RESULT = ROOT / "results" / "throughput.json"
BEFORE, NOW, DEFAULT = "before", "now, ONNX Runtime", "now, default engine"
CONNECTIONS = (1, 8, 32)


def load(server: Server, connections: int, seconds: float) -> float:
    """Return how many requests a second a server answers, with one example picture each.

    Raises:
        BenchmarkError: The load generator failed, or an answer was none.
    """
    _resume(server)
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.service.load"),
                *(str(path) for path in sorted((ROOT / "examples").glob("*.png"))),
                *("--port", str(server.port), "--concurrency", str(connections), "--seconds", str(seconds)),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        _suspend(server)
    if done.returncode:
        raise BenchmarkError(f"the load generator: {done.stderr.strip()[-300:]}")
    summary = json.loads(done.stdout)
    if set(summary["statuses"]) != {"200"}:
        raise BenchmarkError(f"not all answers were 200: {summary['statuses']}")
    return float(summary["requests_per_second"])


def ratios(rounds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the throughput of this checkout in that of the one before: in each round, and the median of these.

    Args:
        rounds: Requests a second of each contender, by round.
    """
    found = {}
    for name in (NOW, DEFAULT):
        each = [round(one[name] / one[BEFORE], 3) for one in rounds]
        found[name] = {"median": round(statistics.median(each), 3), "by_round": each}
    return found


def throughput_table(result: Mapping[str, Any]) -> str:
    """Return the figures as a Markdown table, a line for each number of connections."""
    lines = []
    for connections, row in result["connections"].items():
        middle = (f"{statistics.median(one[name] for one in row['rounds']):.0f}" for name in (BEFORE, NOW, DEFAULT))
        lines.append([connections, *middle, *(f"{row['ratios'][name]['median']:.2f}" for name in (NOW, DEFAULT))])
    columns = ["connections", "before, requests/s", NOW, DEFAULT, f"ratio: {NOW}", f"ratio: {DEFAULT}"]
    return markdown.table(columns, lines, "rrrrrr")


def measure(before: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Start the servers, and return requests a second by number of connections.

    Raises:
        BenchmarkError: A server does not start, or does not answer.
    """
    with ExitStack() as stack:
        quiet = {"SGN_ACCESS_LOG": "false"}
        servers = {
            BEFORE: stack.enter_context(running_server(before, quiet)),
            NOW: stack.enter_context(running_server(ROOT, {**quiet, "SGN_ENGINE": "onnxruntime"})),
            DEFAULT: stack.enter_context(running_server(ROOT, {**quiet, "SGN_PROVIDERS": ""})),
        }
        found = {}
        for server in servers.values():
            stack.callback(_resume, server)  # one that is suspended would not end
            _suspend(server)
        for connections in CONNECTIONS:
            measured: list[dict[str, float]] = []
            for number in range(rounds):
                order = list(servers) if number % 2 == 0 else list(servers)[::-1]
                turn = {name: load(servers[name], connections, seconds) for name in order}
                measured.append({name: round(turn[name], 1) for name in servers})
                print(connections, measured[-1], flush=True)
            found[str(connections)] = {"rounds": measured, "ratios": ratios(measured)}
    return found


def _suspend(server: Server) -> None:
    for process in reversed(_tree(server)):
        process.suspend()


def _resume(server: Server) -> None:
    for process in _tree(server):
        process.resume()


def _tree(server: Server) -> list[psutil.Process]:
    """Return a server's processes, the one that started the others first."""
    first = psutil.Process(server.pid)
    return [first, *first.children(recursive=True)]


@errors_told
def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = command_parser("release.throughput", __doc__)
    parser.add_argument("--before", type=Path, required=True, help="checkout of another version")
    parser.add_argument("--rounds", type=int, default=4, help="loads of each server (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each of them is (default: 4)")
    add_out(parser, RESULT)
    options = parser.parse_args(arguments)
    with ended_by_sigterm():
        connections = measure(options.before, options.rounds, options.seconds)
    result = {
        "command": f"python -m release.throughput --before {options.before.name}",
        "git_commit": commit(),
        "before": git_commit(options.before),
        "versions": versions(("bentoml", "starlette", "uvicorn", "onnxruntime", "openvino")),
        "processor": processor(),
        "seconds": options.seconds,
        "connections": connections,
    }
    write_result(options.out, result, indent=2)
    print(throughput_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
