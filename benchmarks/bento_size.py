"""Measure how large the Bento is when it is installed: its requirements in a new environment, and its own files.

    make bento && python -m benchmarks.bento_size

Writes results/bento_size.json. The Bento's service is then loaded in that environment, which shows that nothing it
needs was left out.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.errors import BenchmarkError

RESULT = ROOT / "results" / "bento_size.json"
LARGEST = 10


def latest_bento() -> Path:
    """Return the folder of the newest Bento in BentoML's store.

    Raises:
        BenchmarkError: There is none.
    """
    command = [sys.executable, "-m", "bentoml", "get", "robust_classifier:latest", "--output", "path"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError("there is no Bento; build one: make bento")
    return Path(done.stdout.strip())


def megabytes(folder: Path) -> float:
    """Return the size of all files of a folder, in units of 1e6 bytes. Links are left out."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink()) / 1e6


def measure(bento: Path, folder: Path) -> dict[str, Any]:
    """Install a Bento's requirements, load its service, and return the sizes.

    Args:
        bento: The Bento's folder.
        folder: Where the virtual environment is made.

    Raises:
        BenchmarkError: The requirements cannot be installed, or the service cannot be loaded with them.
    """
    requirements = bento / "env" / "python" / "requirements.txt"
    _run([sys.executable, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    empty = megabytes(folder)
    _run([*pip, "install", "--requirement", str(requirements)])
    print(_run([str(python), "-m", "sgn_serve.check"], bento / "src").strip(), file=sys.stderr)
    (packages,) = folder.glob("lib/python*/site-packages")
    sizes = {path.name: megabytes(path) for path in packages.iterdir() if path.is_dir()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST]
    return {
        "installed_megabytes": round(megabytes(folder) - empty + megabytes(bento), 1),
        "packages_megabytes": round(megabytes(folder) - empty, 1),
        "bento_megabytes": round(megabytes(bento), 1),
        "largest_megabytes": {name: round(sizes[name], 1) for name in largest},
        "requirements": requirements.read_text().split(),
        "python": "{}.{}".format(*sys.version_info[:2]),
    }


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    """Return what a command printed. Its errors go to this process's standard error."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)}: ended with {done.returncode}; see the lines above")
    return done.stdout


@errors_told
def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("benchmarks.bento_size", __doc__)
    add_out(parser, RESULT)
    arguments = parser.parse_args(command_line)
    with tempfile.TemporaryDirectory() as folder:
        result = {"command": "python -m benchmarks.bento_size", **measure(latest_bento(), Path(folder))}
    write_result(arguments.out, result)
    print(json.dumps({name: value for name, value in result.items() if name != "requirements"}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
