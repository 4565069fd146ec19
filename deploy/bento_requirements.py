"""Writes down what a Bento needs: what serving needs, in the versions that were tested, and nothing else.

python -m deploy.bento_requirements cpu build/bento-requirements.txt

`bentoml build` would ask the registry for the newest versions instead. What a package needs is read from the packages
installed here, so the list is for this Python version and platform.
"""

import argparse
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "constraints.txt"


class RequirementsError(RuntimeError):
    """A package that the Bento needs and cannot be pinned; the message, one line, names it and the fix."""


def serving_requirements(pyproject: Path, runtime: str) -> list[Requirement]:
    """What pyproject.toml names for serving.

    runtime: the extra with ONNX Runtime, cpu or gpu
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"][runtime]]


def tested_versions(constraints: Path) -> dict[str, str]:
    """By canonical name, from a file of NAME==VERSION lines and comments."""
    lines = [line.strip() for line in constraints.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def pinned(required: list[Requirement], versions: Mapping[str, str]) -> list[str]:
    """NAME==VERSION of everything that is required, and of what that requires in turn, sorted.

    raises RequirementsError for a package that is not installed, or in another version than the tested one
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(required)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen or not _wanted(requirement, {""}):
            continue
        seen.add((name, frozenset(requirement.extras)))
        found[name] = f"{name}=={_version(name, versions)}"
        waiting.extend(_required_by(name, requirement.extras))
    return [found[name] for name in sorted(found)]


def _version(name: str, versions: Mapping[str, str]) -> str:
    try:
        installed = distribution(name).version
    except PackageNotFoundError:
        raise RequirementsError(f"the Bento needs {name}, which is not installed here; run make bento") from None
    if versions.get(name) != installed:
        raise RequirementsError(
            f"{name} {installed} is installed, but constraints.txt says {versions.get(name, 'nothing of it')}; "
            "run make clean bento"
        )
    return installed


def _required_by(name: str, extras: set[str]) -> Iterator[Requirement]:
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if _wanted(requirement, {"", *extras}):
            requirement.marker = None
            yield requirement


def _wanted(requirement: Requirement, extras: set[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def main() -> int:
    parser = argparse.ArgumentParser("python -m deploy.bento_requirements", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runtime", choices=["cpu", "gpu"], help="which ONNX Runtime")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        lines = pinned(serving_requirements(PYPROJECT, arguments.runtime), tested_versions(CONSTRAINTS))
    except RequirementsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
