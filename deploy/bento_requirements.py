"""Write the requirements of a Bento: what serving needs, in the versions that were tested, and nothing else.

    python -m deploy.bento_requirements cpu build/bento-requirements.txt

`bentoml build` would ask the registry for the newest versions instead. The requirements of each package are read from
the packages installed here, so the list is for this Python version and platform.
"""

import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sgn_serve.common.command_parser import CommandParser, file_to_write
from sgn_serve.common.error_text import say

ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "constraints.txt"


class RequirementsError(RuntimeError):
    """A package that the Bento needs cannot be pinned. The message, one line, names the package and the fix."""


def serving_requirements(pyproject: Path, runtime: str) -> list[Requirement]:
    """Return what pyproject.toml names for serving.

    Args:
        pyproject: The path of pyproject.toml.
        runtime: Which build of ONNX Runtime it runs on, "cpu" or "gpu".
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"][runtime]
    # The GPU's ONNX Runtime is the same module, so the other one must not come along with it.
    other = "onnxruntime" if runtime == "gpu" else "onnxruntime-gpu"
    return [requirement for requirement in map(Requirement, lines) if canonicalize_name(requirement.name) != other]


def tested_versions(constraints: Path) -> dict[str, str]:
    """Return the tested version of each package, by canonical name.

    Args:
        constraints: A file of comments and of lines NAME==VERSION or NAME==VERSION ; MARKER. A line whose marker is not
            fulfilled by this Python and platform is left out.
    """
    lines = [line for line in constraints.read_text().splitlines() if line and not line.startswith("#")]
    requirements = [requirement for requirement in map(Requirement, lines) if _wanted(requirement, {""})]
    return {canonicalize_name(item.name): str(item.specifier).removeprefix("==") for item in requirements}


def pinned(required: list[Requirement], versions: Mapping[str, str]) -> list[str]:
    """Return NAME==VERSION of everything that is required, and of what that requires in turn, sorted.

    Args:
        required: The requirements that are asked for directly.
        versions: The tested version of each package, by canonical name.

    Raises:
        RequirementsError: A package is not installed, or its version is not the tested one.
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
    """Run the command line and return its exit status."""
    parser = CommandParser("python -m deploy.bento_requirements", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runtime", choices=["cpu", "gpu"], help="which build of ONNX Runtime")
    parser.add_argument("out", type=file_to_write, help="file to write")
    arguments = parser.parse_args()
    try:
        lines = pinned(serving_requirements(PYPROJECT, arguments.runtime), tested_versions(CONSTRAINTS))
    except RequirementsError as error:
        say(f"error: {error}")
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
