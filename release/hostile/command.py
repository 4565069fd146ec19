"""Send a server thousands of damaged and oversized picture files, and measure its memory and its time.

    pip install --editable '.[cpu]'
    python -m release.hostile --files 1000 --before ../checkout-of-another-version
    python -m release.hostile --server 127.0.0.1:3000 --pid 1234 --out mine.json

Writes results/hostile.json, and beside it the list of all files that were sent and the corpus of those that were kept.
Each file follows from a line of that list. A server is started from this checkout with its default settings, unless
--server names one. A run that was stopped goes on where it was when the same command is given again.
"""

import argparse
import json
import lzma
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, add_out, command_parser, write_result
from benchmarks.errors import BenchmarkError
from benchmarks.provenance import commit, processor, versions
from release.hostile import fuzz, named
from release.hostile.client import one_picture
from release.hostile.corpus import Corpus, unpack
from release.hostile.report import ANSWER_SECONDS, MEMORY_MB, SMALL_SECONDS, exceeded, named_table, table
from release.hostile.seeds import FORMATS, seeds
from release.hostile.server import Server, running_server
from release.hostile.session import Session, available_bytes, session
from sgn_serve.common.error_text import say
from sgn_serve.common.interrupts import INTERRUPTED
from sgn_serve.common.termination import TERMINATED, Terminated, terminable
from training.common.errors import TrainingError
from training.common.files import write_atomically
from training.common.provenance import git_commit

RESULT = ROOT / "results" / "hostile.json"
WORK = ROOT / "build" / "hostile"
PACKAGES = ("pillow", "pillow-heif", "numpy", "bentoml", "starlette", "uvicorn", "onnxruntime")
MEMORY_SHARE = 0.5
"""Share of the machine's free memory that a server may take before it is ended."""
_MOST_RESTARTS = 20
_MACHINE = ("versions", "processor", "cores")
UNSUPPORTED = 415


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser("release.hostile", __doc__)
    parser.add_argument(
        "--files", type=int, default=1000, help="files of each format; 0 measures the named inputs alone"
    )
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, metavar="FORMAT", help="by Pillow's names (default: all accepted ones)"
    )
    parser.add_argument("--before", type=Path, help="checkout of another version, for the named inputs")
    parser.add_argument("--no-named", action="store_true", help="leave the named inputs out")
    parser.add_argument("--no-together", action="store_true", help="leave out sixteen and more of the worst at a time")
    parser.add_argument("--server", help="HOST:PORT of a running server, instead of starting one")
    parser.add_argument("--pid", type=int, help="its process, whose memory and whose children's is measured")
    parser.add_argument("--token", default="", help="its API token")
    parser.add_argument("--seed", type=int, default=0, help="number from which the choice of files follows")
    parser.add_argument(
        "--in-flight",
        type=int,
        default=fuzz.IN_FLIGHT,
        help=f"requests at a time while files are tried (default: {fuzz.IN_FLIGHT})",
    )
    parser.add_argument("--replay", type=Path, help="list of files (sent.jsonl.xz) to send instead of new ones")
    parser.add_argument("--corpus", type=Path, help="archive of kept files to begin with (default: the committed one)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the unfinished run (default: build/hostile)")
    parser.add_argument("--restart", action="store_true", help="forget an unfinished run")
    parser.add_argument(
        "--again",
        type=Path,
        metavar="RESULT",
        help="go on from a finished run: measure only the named inputs and many at a time anew",
    )
    parser.add_argument(
        "--anew", nargs="+", choices=FORMATS, default=[], metavar="FORMAT", help="with --again: try these anew as well"
    )
    parser.add_argument(
        "--most-gigabytes", type=float, help="memory at which the server is ended (default: half of what is free)"
    )
    add_out(parser, RESULT)
    return parser


class State:
    """An unfinished run, saved after each step.

    Args:
        path: The file. What is there is read.
        options: Options of the run.

    Raises:
        BenchmarkError: The file is damaged, or of a run with other options.
    """

    def __init__(self, path: Path, options: dict[str, Any]):
        self._path = path
        self.seconds, self.fuzzed_commit = 0.0, ""
        self.named: dict[str, Any] = {}
        self.formats: list[str] = []
        self.tallies: dict[str, fuzz.Tally] = {}
        self.rounds: dict[str, int] = {}
        self.idle = 0.0
        self.facts: dict[str, Any] | None = None
        self._options = options
        if path.is_file():
            try:
                content = json.loads(path.read_text())
            except ValueError as error:
                raise BenchmarkError(
                    f"{path}: no state of a run ({error}); give another --work, or --restart"
                ) from None
            if content["options"] != options:
                raise BenchmarkError(
                    f"{path} is of a run with other options; give the same ones, another --work, or --restart"
                )
            self.seconds, self.named, self.formats = content["seconds"], content["named"], content["formats"]
            self.rounds, self.idle = content["rounds"], content["idle"]
            self.fuzzed_commit, self.facts = content["fuzzed_commit"], content["facts"]
            self.tallies = {name: fuzz.Tally(**tally) for name, tally in content["tallies"].items()}
        self._began = time.monotonic() - self.seconds

    def take_over(self, result: dict[str, Any], anew: Sequence[str]) -> None:
        """Begin with what a finished run measured.

        Args:
            result: The run. Its named inputs of now and its costs of many at a time are left out.
            anew: Formats that are left out as well.
        """
        self.fuzzed_commit = result["git_commit"]
        self.facts = {name: result[name] for name in (*_MACHINE, "in_flight")}
        self._began -= result["seconds"]
        self.named = {side: rows for side, rows in result["named"].items() if side != "now"}
        self.formats = list(result["formats"])
        self.rounds = dict.fromkeys(self.formats, 0)
        self.tallies = {
            name: fuzz.Tally() if name in anew else fuzz.Tally(**{**row, "together": {}})
            for name, row in result["formats"].items()
        }
        self.save()

    def save(self) -> None:
        """Write the file."""
        self.seconds = round(time.monotonic() - self._began, 1)
        content = {
            "options": self._options,
            "seconds": self.seconds,
            "named": self.named,
            "formats": self.formats,
            "rounds": self.rounds,
            "idle": self.idle,
            "fuzzed_commit": self.fuzzed_commit,
            "facts": self.facts,
            "tallies": {name: asdict(tally) for name, tally in self.tallies.items()},
        }
        write_atomically(self._path, json.dumps(content).encode())


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 where every bound holds, 1 where one does not, 2 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = build_parser().parse_args(command_line)
    given = sys.argv[1:] if command_line is None else list(command_line)
    try:
        with terminable():
            return _run(arguments, shlex.join(["python", "-m", "release.hostile", *given]))
    except (BenchmarkError, TrainingError) as error:
        say(f"error: {error}")
        return 2
    except (KeyboardInterrupt, Terminated) as stop:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


def _run(arguments: argparse.Namespace, command: str) -> int:
    _check(arguments)
    if arguments.restart and arguments.work.exists():
        shutil.rmtree(arguments.work)
    arguments.work.mkdir(parents=True, exist_ok=True)
    names = (
        "again",
        "anew",
        "files",
        "formats",
        "seed",
        "server",
        "no_named",
        "no_together",
        "before",
        "replay",
        "in_flight",
    )
    state = State(arguments.work / "state.json", {name: _text(getattr(arguments, name)) for name in names})
    if arguments.again is not None and not state.tallies:
        write_atomically(arguments.work / "sent.jsonl", _list_of(arguments.again, arguments.replay))
        state.take_over(_finished(arguments.again), arguments.anew)  # last: it marks the list as there
    most_bytes = 1e9 * arguments.most_gigabytes if arguments.most_gigabytes else MEMORY_SHARE * available_bytes()
    fuzz.trim_list(arguments.work, {name: tally.files for name, tally in state.tallies.items()})
    corpus_folder = arguments.work / "corpus"
    beside, committed = (_beside(out) / "corpus.tar.xz" for out in (arguments.out, RESULT))
    source = arguments.corpus or (beside if beside.is_file() else committed)
    if not corpus_folder.exists() and source.is_file():
        unpack(source, corpus_folder)
    corpus = Corpus(corpus_folder)
    planned = fuzz.read_list(arguments.replay) if arguments.replay else None
    if not arguments.no_named:
        for side, checkout in (("before", arguments.before), ("now", ROOT)):
            if side == "now" or checkout is not None:
                _measure_named(state, side, checkout, arguments, most_bytes)
    if arguments.files:
        for _ in range(_MOST_RESTARTS):
            with _server(arguments, ROOT) as server, session(server, arguments.token, most_bytes) as opened:
                state.idle = state.idle or round(opened.idle, 1)
                _try_formats(state, opened, corpus, arguments, planned)
                if not opened.killed:
                    break
            if arguments.server is not None:
                raise BenchmarkError(
                    f"the server was ended: it took more than {most_bytes / 1e9:.1f} GB; start it anew"
                )
        else:
            raise BenchmarkError(f"the server was ended {_MOST_RESTARTS} times because it took too much memory")
    result = _result(state, command, most_bytes, arguments.in_flight)
    if arguments.files:
        folder = _beside(arguments.out)
        fuzz.pack_list(arguments.work, folder / "sent.jsonl.xz")
        corpus.pack(folder / "corpus.tar.xz")
    write_result(arguments.out, result)
    print("\n\n".join([part for part in (table(result), named_table(result)) if part]))
    lines = exceeded(result)
    print("\n".join(lines) if lines else "every bound holds", file=sys.stderr)
    shutil.rmtree(arguments.work)
    return 1 if lines else 0


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.server is None) != (arguments.pid is None):
        raise BenchmarkError("--server and --pid go together: a server's address, and its process to measure")
    if arguments.server is not None and not arguments.server.rpartition(":")[2].isdigit():
        raise BenchmarkError(f"--server {arguments.server}: expected HOST:PORT, such as 127.0.0.1:3000")
    if arguments.files < 0:
        raise BenchmarkError(f"--files must be 0 or more, not {arguments.files}")
    if arguments.in_flight < 1:
        raise BenchmarkError(f"--in-flight must be 1 or more, not {arguments.in_flight}")
    for option, path in (("--replay", arguments.replay), ("--corpus", arguments.corpus), ("--again", arguments.again)):
        if path is not None and not path.is_file():
            raise BenchmarkError(f"{option} {path}: no such file")
    if arguments.anew and arguments.again is None:
        raise BenchmarkError("--anew goes with --again; without it every format is tried")
    if arguments.before is not None and not (arguments.before / "bentofile.yaml").is_file():
        raise BenchmarkError(
            f"--before {arguments.before}: no checkout of this project; make one with git worktree add"
        )


def _list_of(result: Path, replayed: Path | None) -> bytes:
    """Return the list of files that a finished run sent: the one that it replayed, or the one beside it."""
    sent = replayed or _beside(result) / "sent.jsonl.xz"
    try:
        return lzma.decompress(sent.read_bytes())
    except (OSError, lzma.LZMAError) as error:
        raise BenchmarkError(
            f"--again {result}: the list of its files cannot be read ({error}); put {sent} there, or leave --again out"
        ) from None


def _finished(path: Path) -> dict[str, Any]:
    """Return the result of a finished run."""
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise BenchmarkError(f"--again {path}: no result of a run ({error}); name another one") from None
    if not isinstance(result, dict) or "formats" not in result:
        raise BenchmarkError(f"--again {path}: no result of a run; name another one")
    return result


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _beside(out: Path) -> Path:
    """Return the folder beside a result: results/hostile for results/hostile.json."""
    return out.with_suffix("")


@contextmanager
def _server(arguments: argparse.Namespace, checkout: Path) -> Iterator[Server]:
    """Return the server that was named, or one that runs from a checkout until the block ends."""
    if arguments.server is None:
        with running_server(checkout) as server:
            yield server
    else:
        host, _, port = arguments.server.rpartition(":")
        yield Server(host, int(port), arguments.pid)


def _measure_named(state: State, side: str, checkout: Path, arguments: argparse.Namespace, most_bytes: float) -> None:
    """Measure the inputs of named.NAMED that are not measured yet. A server that dies of one is started anew."""
    content = state.named.setdefault(side, {"git_commit": "", "idle": 0.0, "rows": {}})
    content["git_commit"] = commit() if side == "now" else git_commit(checkout)
    while left := [one for one in named.NAMED if one.name not in content["rows"]]:
        if side == "now" or arguments.server is None:
            with _server(arguments, checkout) as server, session(server, arguments.token, most_bytes) as opened:
                content["idle"] = round(opened.idle, 1)
                for one in left:
                    row = content["rows"][one.name] = named.measure(opened, one)
                    state.save()
                    shown = {
                        name: (cost["megabytes"], cost["seconds"]) for name, cost in row.items() if name != "bytes"
                    }
                    say(f"{side}: {one.name}: {shown} (MB, s)")
                    if opened.killed or named.without_answer(row):
                        break  # the server may be busy with it for minutes; the next one gets a new server
        else:
            raise BenchmarkError("--before starts a server, and --server names one; give one of them")


def _try_formats(
    state: State,
    opened: Session,
    corpus: Corpus,
    arguments: argparse.Namespace,
    planned: dict[str, list[Any]] | None,
) -> None:
    """Try all formats in turn until each had its files, or the server was ended."""
    if not state.formats:
        state.formats = arguments.formats or _accepted(opened)
        state.tallies = {name: fuzz.Tally() for name in state.formats}
        state.rounds = dict.fromkeys(state.formats, 0)
        state.save()
    fuzzer = fuzz.Fuzzer(opened, corpus, arguments.work, arguments.seed, planned, arguments.in_flight)
    wanted = {
        name: min(arguments.files, len(planned.get(name, []))) if planned else arguments.files for name in state.formats
    }
    while left := [name for name in state.formats if state.tallies[name].files < wanted[name]]:
        for name in left:
            tally = state.tallies[name]
            tally.commit = tally.commit or commit()
            fuzzer.round(name, state.rounds[name], tally, min(fuzz.TOGETHER, wanted[name] - tally.files))
            state.rounds[name] += 1
            state.save()
            say(
                f"{state.seconds:6.0f} s  {name:8} {tally.files:6,} of {wanted[name]:,}  "
                f"alone: {tally.worst_megabytes['megabytes']:7.1f} MB, {tally.worst_seconds['seconds']:6.2f} s  "
                f"with others: {tally.above_idle:7.1f} MB  small picture: {tally.small_seconds:5.2f} s  "
                f"faults: {tally.faults}",
            )
            if opened.killed:
                return
    for name in state.formats if not arguments.no_together else []:
        if not state.tallies[name].together:
            fuzzer.together(name, state.tallies[name])
            state.save()
            say(f"{state.seconds:6.0f} s  {name:8} together")
            if opened.killed:
                return


def _accepted(opened: Session) -> list[str]:
    """Return the formats whose ordinary picture the server does not refuse as one that it does not take."""
    able = [name for name in FORMATS if seeds(name)]
    answers = opened.send([one_picture(seeds(name)[0]) for name in able], 1)
    return [name for name, answer in zip(able, answers, strict=True) if answer.status != UNSUPPORTED]


def _facts(in_flight: int) -> dict[str, Any]:
    """Return what files are tried with."""
    return {
        "versions": versions(PACKAGES),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "in_flight": in_flight,
    }


def _result(state: State, command: str, most_bytes: float, in_flight: int) -> dict[str, Any]:
    """Return the figures, with what the files were tried with, and what many at a time and the named inputs were."""
    now = _facts(in_flight)
    then = state.facts or now
    return {
        "command": command,
        "git_commit": state.fuzzed_commit or commit(),
        "together_commit": commit(),
        **{name: then[name] for name in _MACHINE},
        **{f"together_{name}": now[name] for name in _MACHINE},
        "seconds": state.seconds,
        "ended_at_megabytes": round(most_bytes / 1e6),
        "bounds": {"memory_mb": MEMORY_MB, "answer_seconds": ANSWER_SECONDS, "small_seconds": SMALL_SECONDS},
        "files": sum(tally.files for tally in state.tallies.values()),
        "in_flight": then["in_flight"],
        "idle_mb": state.idle,
        "formats": {name: asdict(tally) for name, tally in state.tallies.items()},
        "named": state.named,
    }
