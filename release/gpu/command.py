"""Use some minutes of a GPU well: test, measure, train, attack, and keep whatever was done.

    python -m release.gpu --minutes 9 --data cifar10-jpeg.tar.xz --out gpu-run
    python -m release.gpu --rehearse --out rehearsal      # all of it, tiny, on the CPU

Stages run one after the other, each in a process of its own with a time limit; one that fails does not keep the next
from running. OUT/gpu.json says after every step what was done, also when the command is killed.
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

from benchmarks.provenance import commit
from release.gpu.plan import PLAN, REHEARSAL, SHORTEST_SECONDS, Stage, choose, limit
from release.gpu.record import NAME, Record
from release.gpu.stage import SKIPPED, Settings
from release.gpu.summary import line, summary
from release.gpu.supervise import GRACE_SECONDS, Outcome, supervise
from training.common.errors import TrainingError
from training.common.signals import Terminated, terminable

MINUTES = (9.0, 3.0)
"""Default of --minutes: of a run, of a rehearsal."""
END_SECONDS = 5.0
"""Of the minutes, kept for the end."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m release.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, help="for everything (9; 3 in a rehearsal)")
    parser.add_argument(
        "--data", help="tar archive of an image folder: train/<class>/<picture>, test/<class>/<picture>"
    )
    parser.add_argument("--dataset-name", default="CIFAR-10 (JPEG copy)", help="what figures call it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--rehearse", action="store_true", help="everything tiny, on the CPU")
    parser.add_argument(
        "--stages", nargs="+", default=[], metavar="STAGE", help=f"of {', '.join(stage.name for stage in PLAN)}"
    )
    parser.add_argument("--commit", help="to record, where this is no checkout")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Check the arguments and run the stages; return the exit status."""
    arguments = parse_arguments(argv)
    minutes = MINUTES[arguments.rehearse] if arguments.minutes is None else arguments.minutes
    try:
        stages = choose(REHEARSAL if arguments.rehearse else PLAN, arguments.stages)
        check(arguments, stages, minutes)
        with tempfile.TemporaryDirectory(prefix="gpu-run-", dir=in_memory(), ignore_cleanup_errors=True) as work:
            settings = Settings(
                out=str(arguments.out.resolve()),
                work=work,
                data=str(Path(arguments.data).resolve()) if arguments.data else "",
                dataset_name=arguments.dataset_name if arguments.data else "generated pictures",
                rehearse=arguments.rehearse,
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
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


def in_memory(folder: Path = Path("/dev/shm"), needed: int = 4 * 2**30) -> Path | None:
    """Return a folder in memory with room for the unpacked pictures, which are many small files; None without one."""
    try:
        return folder if shutil.disk_usage(folder).free >= needed and os.access(folder, os.W_OK) else None
    except OSError:
        return None


def check(arguments: argparse.Namespace, stages: Sequence[Stage], minutes: float) -> None:
    """Refuse what cannot work before any minute is spent.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    if minutes <= 0:
        raise TrainingError(f"--minutes must be above 0, not {minutes:g}")
    wanted = any(stage.name == "pictures" for stage in stages)
    if arguments.data is None and wanted and not arguments.rehearse:
        raise TrainingError("there is no --data; name an archive of an image folder, or pass --rehearse for a try")
    if arguments.data is not None and not Path(arguments.data).is_file():
        raise TrainingError(f"--data {arguments.data}: no such file; name an archive of an image folder")


def run_stages(stages: Sequence[Stage], settings: Settings, about: dict[str, object], minutes: float) -> int:
    """Run stages one after the other and print a line for each, then the summary.

    about: what gpu.json says of the run
    Returns:
        0 where every stage is done or skipped, 1 where one is not, 143 or 130 where the run was told to stop.
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
        status = 143 if isinstance(stop, Terminated) else 130
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

    seconds: that it may take, its end included
    saved:   file with the run's settings
    """
    if seconds < SHORTEST_SECONDS:
        record.update(stage.name, status="skipped", reason=f"only {seconds:.0f} s were left for it")
        return
    record.update(stage.name, status="running", limit_seconds=round(seconds, 1))
    began = time.monotonic()
    # What PyTorch compiles goes with the run's other files, not into the user's home.
    environment = {
        "TORCHINDUCTOR_CACHE_DIR": str(Path(settings.work) / "inductor"),
        # nvcc's usual place is not on every machine's path.
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/local/cuda/bin",
    }
    if settings.rehearse:
        # Threads that spin while they wait for one that does not get a core make a busy machine ten times slower.
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    command = stage.process(str(saved), began + seconds - GRACE_SECONDS)
    outcome = supervise(command, seconds, Path(settings.out) / "log.txt", environment=environment)
    status, reason = judged(outcome, seconds)
    fields = {"status": status, "reason": reason, "seconds": round(time.monotonic() - began, 1)}
    record.update(stage.name, **fields, **({"output": list(outcome.tail)} if status in ("failed", "overran") else {}))


def judged(outcome: Outcome, seconds: float) -> tuple[str, str]:
    """Return a stage's status and, where it is not done, the reason."""
    if outcome.overran:
        return "overran", f"its {seconds:.0f} s were up"
    if outcome.status == SKIPPED:
        return "skipped", outcome.reason
    if outcome.status != 0:
        return "failed", outcome.reason
    return "done", ""
