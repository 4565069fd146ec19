"""Tell what a benchmark's figures were measured with: the commit, the versions of packages, the processor."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from training.common.provenance import git_commit

CPU_INFO = Path("/proc/cpuinfo")


def commit() -> str:
    """Return the checkout's commit, with "+changes" where files outside results/ differ from it.

    A benchmark writes its figures there, so changes in results/ do not change what it measures.
    """
    return git_commit(ignore=("results",))


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of those packages, "not installed" for a package that is not there."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def processor(cpu_info: Path = CPU_INFO) -> str:
    """Return the processor's name and its vector extensions, such as "AMD EPYC (avx512f, avx512_bf16)".

    Args:
        cpu_info: What Linux says about the processor. Without that file, only the name or the kind is returned.
    """
    try:
        lines = dict(line.split(":", 1) for line in cpu_info.read_text().splitlines() if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    values = {key.strip(): value.strip() for key, value in lines.items()}
    name = values.get("model name", platform.machine())
    flags = values.get("flags", "").split()
    able = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8") if flag in flags]
    return f"{name} ({', '.join(able)})" if able else name
