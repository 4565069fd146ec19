"""Kill `sgn classify` at random instants, resume it each time, and compare its rows with those of a whole run.

    python -m release.kill_classify

Writes results/classify_kills.json. The inputs are pictures and hostile files: damaged, empty, vanished, too large, with
odd names, and those of the corpus that fuzzing the service has left. A run is killed again and again until it ends.
Then the next one begins, with an output of another format, until there were enough kills.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.provenance import commit, processor, versions
from release.hostile.corpus import unpack
from sgn_serve.classify.formats import FORMATS, format_of
from sgn_serve.classify.rows import COLUMNS
from sgn_serve.common.error_text import say
from sgn_serve.settings import BUNDLED_MODEL

RESULT = ROOT / "results" / "classify_kills.json"
CORPUS = ROOT / "results" / "hostile" / "corpus.tar.xz"
_CORPUS_SHARE = 4
"""One file of the corpus in so many is taken."""
_QUICK_SECONDS = 0.3
"""A file that took longer is left out: whether it is too slow might depend on what else runs."""
_PART = 4
_DELAY_SECONDS = 0.05
"""Longest time from a part to a kill. In it, several parts are written."""
_FURTHER = 6
"""Parts that a run writes more before a kill, at most."""
_END_SECONDS = 4.0
"""Longest time from the start to a kill where all parts are written: about that in which the run ends."""
_POLL_SECONDS = 0.002


@dataclass
class Outcome:
    """Tell what the kills did.

    Attributes:
        kills: Number of kills.
        runs: Number of runs that were killed and resumed until they ended.
        equal: How many of them wrote the file of the uninterrupted run.
        rows: Rows of that file.
        errors: Rows of it with an error.
        states: Kills by what they found: no part yet, some parts, all of them, or a finished output.
        formats: Runs by the suffix of their output.
    """

    kills: int = 0
    runs: int = 0
    equal: int = 0
    rows: int = 0
    errors: int = 0
    states: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kill:
    """An instant at which a run is killed.

    Attributes:
        output: The output of the run.
        parts: Parts that it must have written first; 0 counts from its start.
        seconds: Seconds after that.
    """

    output: Path
    parts: int
    seconds: float


def make_inputs(folder: Path, pictures: int) -> list[str]:
    """Make pictures and hostile files, and return the sources that a command line names.

    Args:
        folder: Where to make them.
        pictures: Number of good pictures.
    """
    files = folder / "pictures"
    (files / "folder.png").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(pictures):
        colours = generator.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(colours).save(files / f"{number:03d}.png")
    good = (files / "000.png").read_bytes()
    (files / "duplicate.png").write_bytes(good)
    (files / "folder.png" / "inside.png").write_bytes(good)
    (files / "empty.png").write_bytes(b"")
    (files / "truncated.png").write_bytes(good[: len(good) // 2])
    (files / "text.jpg").write_bytes(b"no picture")
    (files / "notes.md").write_text("passed over")
    (files / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(files / "pipe.png")
    (files / 'comma, "quote"\nline.png').write_bytes(good)
    Path(os.fsdecode(os.fsencode(files) + b"/not utf-8 \xff.png")).write_bytes(good)
    Image.new("L", (9000, 9000)).save(files / "too many pixels.png")
    unreadable = files / "unreadable.png"
    unreadable.write_bytes(good)
    unreadable.chmod(0)
    listed = ["000.png", "vanished.png", "folder.png", "000.png", "not utf-8 ü.png"]
    (folder / "list.txt").write_text("".join(f"{files / name}\n" for name in listed))
    return [str(files), str(folder / "list.txt"), str(files / "001.png")]


def hostile_inputs(folder: Path, archive: Path = CORPUS) -> list[str]:
    """Unpack files of the corpus, and return the source that a command line names.

    Args:
        folder: Where to put them.
        archive: The corpus.
    """
    unpack(archive, folder / "corpus")
    index = json.loads((folder / "corpus" / "index.json").read_text())
    quick = {entry["digest"] for entry in index if entry["seconds"] < _QUICK_SECONDS}
    files = [path for path in sorted((folder / "corpus").glob("*.bin")) if path.stem.rpartition("-")[2] in quick]
    (folder / "corpus.txt").write_text("".join(f"{path}\n" for path in files[::_CORPUS_SHARE]))
    return [str(folder / "corpus.txt")]


def kill_runs(
    folder: Path, model: Path, kills: int, seed: int, sources: list[str], suffixes: Sequence[str] = tuple(FORMATS)
) -> Outcome:
    """Run the command once to its end for each format, and then kill and resume it.

    Args:
        folder: An empty folder.
        model: The exported graph.
        kills: Number of kills.
        seed: Seed of the instants.
        sources: The inputs, as a command line names them.
        suffixes: Suffixes of the outputs' names, which take turns.
    """
    numbers = ["--chunk", str(2 * _PART), "--decoders", "1", "--threads", "1", "--max-batch", "3"]
    options = ["--model", str(model), *numbers]
    command = [sys.executable, "-m", "sgn_serve.classify", *sources, *options]
    whole = {suffix: folder / f"whole{suffix}" for suffix in suffixes}
    longest = min(_run([*command, "--out", str(path)]) or 0.0 for path in whole.values())
    first = whole[suffixes[0]]
    outcome = Outcome(rows=_rows(first, None), errors=_rows(first, "error_code"))
    chunks = -(-outcome.rows // _PART)
    instants = random.Random(seed)
    while outcome.kills < kills:
        suffix = suffixes[outcome.runs % len(suffixes)]
        output = folder / f"run{outcome.runs}{suffix}"
        attempt = [*command, "--out", str(output), "--resume"]
        seconds = None
        while seconds is None and outcome.kills < kills:
            # Most of a short run is its start. So most kills are aimed at the parts that come next, or at the last.
            written = _count_parts(output)
            following = instants.randint(written + 1, max(written + 1, min(written + _FURTHER, chunks)))
            parts = (0, following, following, chunks)[outcome.kills % 4] if written < chunks else 0
            delay = instants.uniform(0, _DELAY_SECONDS if parts else longest if written < chunks else _END_SECONDS)
            seconds = _run(attempt, _Kill(output, parts, delay))
            if seconds is None:
                outcome.kills += 1
                state = _state(output, chunks)
                outcome.states[state] = outcome.states.get(state, 0) + 1
        longest = min(longest, seconds or _run(attempt) or longest)  # a later kill would often come too late
        outcome.runs += 1
        outcome.formats[suffix] = outcome.formats.get(suffix, 0) + 1
        if output.read_bytes() == whole[suffix].read_bytes() and not _parts(output).exists():
            outcome.equal += 1
        else:
            say(f"{output.name}: {_difference(output, whole[suffix])}")
    return outcome


def _difference(output: Path, whole: Path) -> str:
    """Return how a file differs from that of the uninterrupted run."""
    if _parts(output).exists():
        return "the folder of parts is left"
    found, expected = (list(format_of(path).read(path, COLUMNS)) for path in (output, whole))
    differing = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]]
    rows = f"{len(found)} rows and {len(expected)}, {len(differing)} of them differ"
    return f"{rows}; the first is {differing[0][0]} and not {differing[0][1]}" if differing else rows


def _run(command: list[str], kill: _Kill | None = None) -> float | None:
    """Run a command, and perhaps kill it. Return the seconds that it took, None where it was killed.

    Raises:
        RuntimeError: It failed.
    """
    began = time.monotonic()
    reached = began if kill is None or not kill.parts else None
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=told) as process,
    ):
        while process.poll() is None:
            now = time.monotonic()
            if kill is not None and reached is None and _count_parts(kill.output) >= kill.parts:
                reached = now
            if kill is not None and reached is not None and now >= reached + kill.seconds:
                process.send_signal(signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        told.seek(0)
        errors = told.read().decode(errors="replace")
    if process.returncode == -signal.SIGKILL:
        return None
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {errors}")
    return time.monotonic() - began


def _parts(output: Path) -> Path:
    return output.with_name(output.name + ".parts")


def _state(output: Path, chunks: int) -> str:
    if output.exists():
        return "finished"
    written = _count_parts(output)
    if not written:
        return "before the first part"
    return "between parts" if written < chunks else "after the last part"


def _count_parts(output: Path) -> int:
    with suppress(FileNotFoundError):  # the run puts its parts together, and removes their folder
        return len(list(_parts(output).glob("*.part")))
    return 0


def _rows(path: Path, column: str | None) -> int:
    """Return the number of rows, or of those whose column is not empty."""
    rows = format_of(path).read(path, [column or "path"])
    return sum(value is not None for (value,) in rows)


@errors_told
def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 where any rows differ."""
    parser = command_parser("release.kill_classify", __doc__)
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="exported graph (default: the bundled one)")
    add_out(parser, RESULT, "file to write")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [*make_inputs(folder, 24), *hostile_inputs(folder)]
        outcome = kill_runs(folder, options.model.resolve(), options.kills, options.seed, sources)
    result: dict[str, Any] = {
        "command": " ".join(["python -m release.kill_classify", *(sys.argv[1:] if arguments is None else arguments)]),
        "git_commit": commit(),
        "processor": processor(),
        "versions": versions(["onnxruntime", "openvino", "pillow", "numpy", "pyarrow"]),
        "seed": options.seed,
        **asdict(outcome),
    }
    write_result(options.out, result)
    print(f"{outcome.kills} kills, {outcome.equal} of {outcome.runs} runs with the rows of an uninterrupted one")
    return 0 if outcome.equal == outcome.runs else 1


if __name__ == "__main__":
    sys.exit(main())
