"""Kill `sgn classify` at random instants, resume it each time, and compare its rows with those of a whole run.

    python -m release.kill_classify

Writes results/classify_kills.json. The inputs are pictures and hostile files: damaged, empty, vanished, too large, with
odd names. A run is killed again and again until it ends; then the next one begins, until there were enough kills.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.provenance import commit, processor, versions
from sgn_serve.settings import BUNDLED_MODEL

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "classify_kills.json"
_CHUNK = 4
_DELAY_SECONDS = 0.05
"""Longest time from a part to a kill. In it, several parts are written."""
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
        states: Kills by what they found: the inputs being listed, parts, or a finished output.
    """

    kills: int = 0
    runs: int = 0
    equal: int = 0
    rows: int = 0
    errors: int = 0
    states: dict[str, int] = field(default_factory=dict)


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


def kill_runs(folder: Path, model: Path, kills: int, seed: int, suffix: str = ".csv") -> Outcome:
    """Run the command once to its end, and then kill and resume it.

    Args:
        folder: An empty folder.
        model: The exported graph.
        kills: Number of kills.
        seed: Seed of the instants.
        suffix: Suffix of the output's name.
    """
    sources = make_inputs(folder, 24)
    options = ["--model", str(model), "--chunk", str(_CHUNK), "--decoders", "1", "--threads", "1", "--max-batch", "3"]
    command = [sys.executable, "-m", "sgn_serve.classify", *sources, *options]
    whole = folder / f"whole{suffix}"
    longest = _run([*command, "--out", str(whole)]) or 0.0
    outcome = Outcome(rows=_rows(whole, None), errors=_rows(whole, "error_code"))
    instants = random.Random(seed)
    while outcome.kills < kills:
        output = folder / f"run{outcome.runs}{suffix}"
        attempt = [*command, "--out", str(output), "--resume"]
        seconds = None
        while seconds is None and outcome.kills < kills:
            # Most of a short run is its start, so every other kill is aimed at what comes after.
            parts = instants.randint(1, -(-outcome.rows // _CHUNK)) if outcome.kills % 2 else 0
            delay = instants.uniform(0, _DELAY_SECONDS if parts else longest)
            seconds = _run(attempt, _Kill(output, parts, delay))
            if seconds is None:
                outcome.kills += 1
                state = _state(output)
                outcome.states[state] = outcome.states.get(state, 0) + 1
        longest = min(longest, seconds or _run(attempt) or longest)  # a later kill would often come too late
        outcome.runs += 1
        outcome.equal += output.read_bytes() == whole.read_bytes() and not _parts(output).exists()
    return outcome


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


def _state(output: Path) -> str:
    if output.exists():
        return "finished"
    if not (_parts(output) / "manifest.json").exists():
        return "before the first part"
    return "between parts" if _count_parts(output) else "before the first part"


def _count_parts(output: Path) -> int:
    return len(list(_parts(output).glob("*.part")))


def _rows(path: Path, column: str | None) -> int:
    """Return the number of rows, or of those whose column is not empty."""
    from sgn_serve.classify.formats import format_of

    rows = format_of(path).read(path, [column or "path"])
    return sum(value is not None for (value,) in rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 where any rows differ."""
    parser = argparse.ArgumentParser("python -m release.kill_classify", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="exported graph (default: the bundled one)")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write (default: results/classify_kills.json)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_runs(Path(folder), options.model.resolve(), options.kills, options.seed)
    result: dict[str, Any] = {
        "command": " ".join(["python -m release.kill_classify", *(sys.argv[1:] if arguments is None else arguments)]),
        "git_commit": commit(),
        "processor": processor(),
        "versions": versions(["onnxruntime", "openvino", "pillow", "numpy"]),
        "seed": options.seed,
        **asdict(outcome),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{outcome.kills} kills, {outcome.equal} of {outcome.runs} runs with the rows of an uninterrupted one")
    return 0 if outcome.equal == outcome.runs else 1


if __name__ == "__main__":
    sys.exit(main())
