"""Use some minutes of a GPU: test, measure, train, attack, and keep every result.

    python -m release.gpu --minutes 9 --data cifar10-jpeg.tar.xz --out gpu-run
    python -m release.gpu --rehearse --out rehearsal      # every stage, tiny, on the CPU

Stages run one after the other, each in its own process with a time limit. If one fails, the next still runs.
OUT/gpu.json is replaced after every step, so it holds the results so far even if the command is killed.
"""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.command_line import command_parser
from benchmarks.provenance import commit
from release.gpu.plan import ALL, PLAN, SHORTEST_SECONDS, Stage, choose, limit, rehearsed
from release.gpu.record import NAME, Record
from release.gpu.stage import CORE_MINUTES, SKIPPED, Settings
from release.gpu.summary import line, summary
from release.gpu.supervise import GRACE_SECONDS, Outcome, supervise
from release.recipes import COSTS
from sgn_serve.common.command_parser import folder_to_write
from sgn_serve.common.error_text import say
from sgn_serve.common.interrupts import INTERRUPTED
from sgn_serve.common.termination import TERMINATED, Terminated, terminable
from training.common.errors import TrainingError

MINUTES = (9.0, 3.0)
"""Defaults of --minutes: in a run, in a rehearsal."""
END_SECONDS = 5.0
"""Seconds of the minutes that are kept for the summary."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = command_parser("release.gpu", __doc__)
    parser.add_argument(
        "--minutes", type=float, help="time limit of all stages together (default: 9; 3 in a rehearsal)"
    )
    parser.add_argument(
        "--data", help="tar archive of an image folder: train/<class>/<picture>, test/<class>/<picture>"
    )
    parser.add_argument("--dataset-name", default="CIFAR-10 (JPEG copy)", help="the data's name in the figures")
    parser.add_argument("--out", type=folder_to_write, required=True, help="folder for the results")
    parser.add_argument("--rehearse", action="store_true", help="run every stage, tiny, on the CPU")
    parser.add_argument(
        "--stages",
        nargs="+",
        default=[],
        metavar="STAGE",
        help=f"run these alone: {', '.join(stage.name for stage in ALL)}; the default is all but "
        f"{' and '.join(stage.name for stage in ALL if stage not in PLAN)}",
    )
    parser.add_argument(
        "--core-minutes",
        type=float,
        default=CORE_MINUTES,
        help=f"the recipes' epochs: as many as so many minutes of a core allow (default: {CORE_MINUTES:g})",
    )
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=[],
        metavar="RECIPE",
        help=f"compare these alone: {', '.join(COSTS)}; a rehearsal takes two",
    )
    parser.add_argument("--commit", help="git commit to record, if this folder is no git checkout")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Check the arguments, run the stages and return the exit status: that of run_stages, or 2 after an error line."""
    arguments = parse_arguments(argv)
    minutes = MINUTES[arguments.rehearse] if arguments.minutes is None else arguments.minutes
    try:
        stages = choose(arguments.stages)
        stages = rehearsed(stages) if arguments.rehearse else stages
        check(arguments, stages, minutes)
        with tempfile.TemporaryDirectory(prefix="gpu-run-", dir=in_memory(), ignore_cleanup_errors=True) as work:
            settings = Settings(
                out=str(arguments.out.resolve()),
                work=work,
                data=str(Path(arguments.data).resolve()) if arguments.data else "",
                dataset_name=arguments.dataset_name if arguments.data else "generated pictures",
                rehearse=arguments.rehearse,
                core_minutes=arguments.core_minutes,
                recipes=tuple(arguments.recipes),
            )
            about = {
                "command": shlex.join(["python", "-m", "release.gpu", *(sys.argv[1:] if argv is None else argv)]),
                "rehearsal": arguments.rehearse,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "minutes": minutes,
                "git_commit": arguments.commit or commit(),
            }
            return run_stages(stages, settings, about, minutes)
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status


def in_memory(folder: Path = Path("/dev/shm"), needed: int = 4 * 2**30) -> Path | None:
    """Return a folder in memory with room for the unpacked pictures, which are many small files.

    Args:
        folder: The folder.
        needed: Bytes that must be free.

    Returns:
        The folder; None if it is missing, too small or not writable.
    """
    try:
        return folder if shutil.disk_usage(folder).free >= needed and os.access(folder, os.W_OK) else None
    except OSError:
        return None


def check(arguments: argparse.Namespace, stages: Sequence[Stage], minutes: float) -> None:
    """Check the options before any time is spent.

    Raises:
        TrainingError: An option cannot work; the message names the fix.
    """
    for name, value in (("minutes", minutes), ("core-minutes", arguments.core_minutes)):
        if not value > 0:
            raise TrainingError(f"--{name} must be above 0, not {value:g}")
    for recipe in arguments.recipes:
        if recipe not in COSTS:
            raise TrainingError(f"--recipes {recipe}: no such recipe; known are: {', '.join(COSTS)}")
        if arguments.recipes.count(recipe) > 1:
            raise TrainingError(f"--recipes names {recipe} twice; name it once")
    if arguments.recipes and not any(stage.name == "recipes" for stage in stages):
        raise TrainingError("--recipes is for the stage recipes, which does not run; add it to --stages")
    wanted = any(stage.name == "pictures" for stage in stages)
    if arguments.data is None and wanted and not arguments.rehearse:
        raise TrainingError("there is no --data; name an archive of an image folder, or pass --rehearse for a try")
    if arguments.data is not None and not Path(arguments.data).is_file():
        raise TrainingError(f"--data {arguments.data}: no such file; name an archive of an image folder")


def run_stages(stages: Sequence[Stage], settings: Settings, about: dict[str, object], minutes: float) -> int:
    """Run stages one after the other and print a line for each, then the summary.

    Args:
        stages: The stages.
        settings: The settings that all stages share.
        about: Description of the run, for gpu.json.
        minutes: Time limit of all stages together.

    Returns:
        0 if every stage is done or skipped, 1 if one is not, 143 after SIGTERM, 130 after Ctrl-C.
    """
    began = time.monotonic()
    out, work = Path(settings.out), Path(settings.work)
    out.mkdir(parents=True, exist_ok=True)
    saved = work / "settings.json"
    settings.save(saved)
    record = Record(out / NAME)
    record.start(about, [stage.name for stage in stages])
    status = 0
    try:
        with terminable():
            for index, stage in enumerate(stages):
                left = 60 * minutes - END_SECONDS - (time.monotonic() - began)
                run_stage(stage, limit(stages, index, left), record, saved, settings)
                print(f"[{time.monotonic() - began:5.1f} s] {line(stage.name, record.stage(stage.name))}", flush=True)
    except (KeyboardInterrupt, Terminated) as stop:
        status = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
        for name, stage_record in record.read()["stages"].items():
            if stage_record["status"] in ("waiting", "running"):
                record.update(name, status="stopped", reason="the run was told to stop")
    content = record.read()
    lines = summary(content)
    record.finish(seconds=round(time.monotonic() - began, 1), summary=lines)
    print("\n" + "\n".join(lines), flush=True)
    print(f"wrote {out / NAME}" + (" (a rehearsal: its figures mean nothing)" if settings.rehearse else ""), flush=True)
    finished = all(stage_record["status"] in ("done", "skipped") for stage_record in content["stages"].values())
    return status or int(not finished)


def run_stage(stage: Stage, seconds: float, record: Record, saved: Path, settings: Settings) -> None:
    """Run one stage and record how it ended.

    Args:
        stage: The stage.
        seconds: Its time limit, its end included. Below SHORTEST_SECONDS it is skipped.
        record: gpu.json.
        saved: File with the run's settings.
        settings: The same settings.
    """
    if seconds < SHORTEST_SECONDS:
        record.update(stage.name, status="skipped", reason=f"only {seconds:.0f} s were left for it")
        return
    record.update(stage.name, status="running", limit_seconds=round(seconds, 1))
    began = time.monotonic()
    # PyTorch's compiled code lies in the run's own folder, not in the user's home.
    environment = {
        "TORCHINDUCTOR_CACHE_DIR": str(Path(settings.work) / "inductor"),
        # nvcc's usual folder is missing from some machines' path.
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/local/cuda/bin",
    }
    if settings.rehearse:
        # On a busy machine, threads that spin while they wait for another thread's core make it ten times slower.
        # Tiny work needs one thread alone.
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    command = stage.process(str(saved), began + seconds - GRACE_SECONDS)
    outcome = supervise(command, seconds, Path(settings.out) / "log.txt", environment=environment)
    status, reason = judged(outcome, seconds)
    fields = {"status": status, "reason": reason, "seconds": round(time.monotonic() - began, 1)}
    record.update(stage.name, **fields, **({"output": list(outcome.tail)} if status in ("failed", "overran") else {}))


def judged(outcome: Outcome, seconds: float) -> tuple[str, str]:
    """Return a stage's status, and the reason if it is not done.

    Args:
        outcome: How its process ended.
        seconds: Its time limit.
    """
    if outcome.overran:
        return "overran", f"its {seconds:.0f} s were up"
    if outcome.status == SKIPPED:
        return "skipped", outcome.reason
    if outcome.status != 0:
        return "failed", outcome.reason
    return "done", ""
