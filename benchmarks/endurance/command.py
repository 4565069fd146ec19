"""Count the requests that are lost while servers behind nginx are ended and started, reloaded, and lose their workers.

    python -m benchmarks.endurance

Writes results/endurance.json. Some servers stand behind nginx with the configuration in deploy/nginx, and clients ask
without a pause. A cycle is three events, each at another server: SIGTERM with a restart, a reload (SIGHUP, another
file), and SIGKILL of a worker. After each the clients go on until their share of the requests is answered.

The file is written after every cycle. A run that was interrupted goes on where it was, with the same options, on the
same commit and processor.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.endurance.clients import Clients, Tally
from benchmarks.endurance.proxy import nginx_is_there, running_nginx
from benchmarks.endurance.upstream import Upstream
from benchmarks.errors import BenchmarkError
from benchmarks.provenance import commit, processor, versions
from benchmarks.service.load import multipart_request
from benchmarks.service.server import ended_by_sigterm
from sgn_serve.common.error_text import say, system_errors_as
from sgn_serve.common.graph_format import file_sha256

RESULT = ROOT / "results" / "endurance.json"
BUNDLED = ROOT / "sgn_serve" / "bundled" / "model.onnx"
EVENTS = {"SIGTERM and restart": Upstream.restart, "reload": Upstream.reload, "killed worker": Upstream.kill_worker}
PACKAGES = ("bentoml", "starlette", "uvicorn", "onnxruntime", "uvloop", "httptools")


@dataclass(frozen=True)
class Plan:
    """Describe a run. One that goes on has the same plan.

    Attributes:
        graph_sha256: SHA-256 of the graph.
        requests: Requests of all cycles.
        cycles: Cycles.
        servers: Servers behind nginx.
        clients: Connections that ask.
    """

    graph_sha256: str
    requests: int
    cycles: int
    servers: int
    clients: int

    @property
    def requests_an_event(self) -> int:
        """Requests after each event."""
        return -(-self.requests // (self.cycles * len(EVENTS)))


def new_result(plan: Plan, command: str) -> dict[str, Any]:
    """Return the result of a run that has not begun."""
    return {
        "command": command,
        "plan": asdict(plan),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "cycles_done": 0,
        "complete": False,
        "requests": 0,
        "failures": 0,
        "failures_by_event": {event: {} for event in ("nothing", *EVENTS)},
        "examples": [],
        "seconds": 0.0,
        "versions": versions(PACKAGES),
        "git_commit": commit(),
    }


def read_result(path: Path, plan: Plan, command: str) -> dict[str, Any]:
    """Return the result of the run that is to go on, or that of a new run.

    Raises:
        BenchmarkError: The file is of a run that is not complete, and has another plan, commit or processor.
    """
    new = new_result(plan, command)
    if not path.exists():
        return new
    found: dict[str, Any] = json.loads(path.read_text())
    if found["complete"]:
        return new
    if found["plan"] != asdict(plan):
        raise BenchmarkError(
            f"{path} is of a run with other options that is not complete: go on with those, or delete it"
        )
    for key, what in (("git_commit", "commit"), ("processor", "processor")):
        if found[key] != new[key]:
            raise BenchmarkError(
                f"{path} is of a run that is not complete, on the {what} {found[key]} and not on this {new[key]}: "
                "go on with that one, delete the file, or pass another --out"
            )
    return found


def add_cycle(result: dict[str, Any], tally: Tally, seconds: float) -> None:
    """Add what a cycle has counted to a result."""
    result["cycles_done"] += 1
    result["complete"] = result["cycles_done"] >= result["plan"]["cycles"]
    result["requests"] += tally.answered + tally.failures.total()
    result["failures"] += tally.failures.total()
    for (event, instead), number in tally.failures.items():
        by_kind = Counter(result["failures_by_event"][event])
        by_kind[instead] += number
        result["failures_by_event"][event] = dict(by_kind)
    result["examples"] = [*result["examples"], *tally.examples][:20]
    result["seconds"] = round(result["seconds"] + seconds, 1)


async def run_cycle(number: int, plan: Plan, upstreams: Sequence[Upstream], port: int) -> Tally:
    """Run a cycle: every event at another server, while the clients ask.

    Raises:
        BenchmarkError: A server does not come back.
    """
    tally = Tally()
    pictures = sorted((ROOT / "examples").glob("*.png"))
    clients = Clients(port, [multipart_request(picture.read_bytes(), {}) for picture in pictures], tally)
    clients.start(plan.clients)
    try:
        for turn, (event, happen) in enumerate(EVENTS.items()):
            upstream = upstreams[(number * len(EVENTS) + turn) % len(upstreams)]
            done = asyncio.create_task(clients.wait_for(plan.requests_an_event))
            tally.event = event
            await asyncio.to_thread(happen, upstream)
            await done
    finally:
        await clients.stop()
    return tally


def endure(plan: Plan, graph: Path, result: dict[str, Any], out: Path) -> None:
    """Run the cycles that are left.

    Raises:
        BenchmarkError: nginx or a server does not start, or does not come back.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        upstreams = [Upstream(Path(folder) / f"server-{number}", graph) for number in range(plan.servers)]
        for upstream in upstreams:
            stack.callback(upstream.stop)
            upstream.start()
        for upstream in upstreams:
            upstream.wait_until_ready()
        proxy = Path(folder) / "nginx-home"
        proxy.mkdir()
        Path(folder).chmod(0o755)
        port = stack.enter_context(running_nginx(proxy, [upstream.port for upstream in upstreams]))
        while not result["complete"]:
            started = time.monotonic()
            tally = asyncio.run(run_cycle(result["cycles_done"], plan, upstreams, port))
            add_cycle(result, tally, time.monotonic() - started)
            write_result(out, result)
            say(
                f"cycle {result['cycles_done']} of {plan.cycles}: {result['requests']} requests, "
                f"{result['failures']} failures",
            )


@system_errors_as(BenchmarkError, "mend that; the same command goes on")
def run(arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    """Run what the command line asks for, and return the result.

    Raises:
        BenchmarkError: nginx is not there. See also read_result and endure. Or a file cannot be read or written.
    """
    if not nginx_is_there():
        raise BenchmarkError("nginx is not there: apt-get install nginx-light")
    sha256 = file_sha256(arguments.graph)
    plan = Plan(sha256, arguments.requests, arguments.cycles, arguments.servers, arguments.clients)
    result = read_result(arguments.out, plan, command)
    with ended_by_sigterm():
        endure(plan, arguments.graph.resolve(), result, arguments.out)
    return result


@errors_told
def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 where a request was lost."""
    parser = command_parser("benchmarks.endurance", __doc__)
    parser.add_argument("--graph", type=Path, default=BUNDLED, help="exported graph (default: the bundled one)")
    parser.add_argument("--requests", type=int, default=1_000_000, help="requests of all cycles")
    parser.add_argument("--cycles", type=int, default=100, help="cycles of the three events")
    parser.add_argument("--servers", type=int, default=3, help="servers behind nginx, two at least")
    parser.add_argument("--clients", type=int, default=8, help="connections that ask")
    add_out(parser, RESULT)
    arguments = parser.parse_args(command_line)
    if arguments.servers < 2:
        parser.error("--servers must be at least 2: while one is away, another one answers")
    if min(arguments.requests, arguments.cycles, arguments.clients) < 1:
        parser.error("--requests, --cycles and --clients must be at least 1")
    command = " ".join(["python -m benchmarks.endurance", *(sys.argv[1:] if command_line is None else [])])
    result = run(arguments, command)
    print(json.dumps(result, indent=1))
    return 1 if result["failures"] else 0
