"""What a benchmark's figures were measured with: the commit, the versions of packages, the processor."""

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
CPU_INFO = Path("/proc/cpuinfo")


def commit(root: Path = ROOT) -> str:
    """The checkout's commit, with "+changes" where files but those of results/ differ, or "" outside a checkout."""
    try:
        head, changes = (
            subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", ".", ":!results"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+changes" if changes else "")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of Python and of those packages; "not installed" where one is not."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def processor(cpu_info: Path = CPU_INFO) -> str:
    """Its name and what it can do beyond the common, as far as the system tells: "AMD EPYC (avx512f, avx512_bf16)"."""
    try:
        lines = dict(line.split(":", 1) for line in cpu_info.read_text().splitlines() if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    values = {key.strip(): value.strip() for key, value in lines.items()}
    name = values.get("model name", platform.machine())
    flags = values.get("flags", "").split()
    able = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8") if flag in flags]
    return f"{name} ({', '.join(able)})" if able else name
