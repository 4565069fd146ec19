"""Settings of rehearsals, and the two stages that are planted in one."""

import sys
import time
from pathlib import Path

from release.gpu.plan import Stage
from release.gpu.record import NAME, Record
from release.gpu.stage import Run, Settings

LARGEST_FILE = 16 * 10**6
FAILING = Stage(
    "planted failure", "", 60, command=(sys.executable, "-c", "print('so far'); raise SystemExit('planted')")
)
OVERLONG = Stage(
    "planted overlong stage",
    "",
    6,
    command=(
        sys.executable,
        "-c",
        "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)",
    ),
)


def settings_in(folder: Path) -> Settings:
    out, work = folder / "out", folder / "work"
    out.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    return Settings(str(out), str(work), data="", dataset_name="generated pictures", rehearse=True)


def run_of(name: str, settings: Settings, seconds: float = 600.0) -> Run:
    Record(Path(settings.out) / NAME).start({}, [name])
    return Run(name, settings, time.monotonic() + seconds)
