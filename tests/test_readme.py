"""What the README and the guides in docs/ tell people to type works.

Every ```sh block is run by bash, in order, in a folder that looks like the checkout, with these differences:
- after a line `<!-- not run: REASON -->` directly before it, a block is left alone;
- `make ...` becomes `make -n ...`: the target exists and its recipe can be worked out;
- `[VARIABLE=value ...] bentoml serve ...` becomes `python -m sgn_serve.check` with the same variables: the settings
  and the model can be served; requests to localhost:3000 go to a server that this test has started;
- what commands write stays out of the checkout.
A ```json block directly after a block is what that block prints: the same keys and words, numbers within 0.001.
"""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sgn_serve.settings import settings_table
from tests.sgn_serve.server import running_server

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK_LIMIT_SECONDS = 1200
LEFT_OUT = {".git", ".venv", "runs", "data", "build", "dist", "__pycache__"}

BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.*?) -->\n+)?^```sh\n(?P<commands>.*?)^```\n(?:\n*^```json\n(?P<output>.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """commands, as they stand; reason: why they are not run, or None; output: the JSON that they print, or None"""

    commands: str
    reason: str | None
    output: str | None


def read_blocks(text: str) -> list[Block]:
    return [Block(match["commands"], match["reason"], match["output"]) for match in BLOCK.finditer(text)]


def as_run(commands: str, server_url: str) -> str:
    """The commands with the differences that the top of this file lists."""
    commands = re.sub(r"^make\b", "make -n", commands, flags=re.MULTILINE)
    commands = re.sub(
        r"^((?:\w+=\S* +)*)bentoml serve\b.*$", r"\1python -m sgn_serve.check", commands, flags=re.MULTILINE
    )
    commands = re.sub(r"(?:http://)?localhost:3000", server_url, commands)
    return "set -euo pipefail\n" + commands


def same(documented: Any, printed: Any) -> bool:
    """Equal but for rounding."""
    if isinstance(documented, dict):
        return (
            isinstance(printed, dict)
            and documented.keys() == printed.keys()
            and all(same(value, printed[key]) for key, value in documented.items())
        )
    if isinstance(documented, list):
        return isinstance(printed, list) and len(documented) == len(printed) and all(map(same, documented, printed))
    if isinstance(documented, float):
        return isinstance(printed, int | float) and math.isclose(documented, printed, rel_tol=0, abs_tol=1e-3)
    return type(documented) is type(printed) and documented == printed


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    return [block for guide in GUIDES for block in read_blocks(guide.read_text())]


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("home")) as server:
        yield server.url


@pytest.fixture
def checkout(tmp_path: Path, project_root: Path) -> Path:
    """A folder of links to everything in the checkout, so that what is written beside them is thrown away."""
    for entry in project_root.iterdir():
        if entry.name not in LEFT_OUT:
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def test_every_command_works(blocks: list[Block], server_url: str, checkout: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SGN_")} | {"PATH": path}
    for block in blocks:
        if block.reason is not None:
            continue
        script = as_run(block.commands, server_url)
        ran = subprocess.run(
            ["bash", "-c", script],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BLOCK_LIMIT_SECONDS,
            check=False,
        )
        assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}"
        assert '{"error":' not in ran.stdout, f"{script}\n{ran.stdout}"
        if block.output is not None:
            assert same(json.loads(block.output), json.loads(ran.stdout)), f"{script}\n{ran.stdout}"


def test_the_two_commands_and_a_request_are_there() -> None:
    run = "\n".join(block.commands for block in read_blocks(README.read_text()) if block.reason is None)
    assert re.search(r"^make serve\b", run, re.MULTILINE)
    assert re.search(r"^make test\b", run, re.MULTILINE)
    assert re.search(r"^curl .*/classify", run, re.MULTILINE)


def test_what_is_not_run_says_why(blocks: list[Block]) -> None:
    assert all(len(block.reason) > 10 for block in blocks if block.reason is not None)


def test_every_shell_block_is_seen(blocks: list[Block]) -> None:
    fences = re.compile(r"^\s*```(?:sh|bash|shell|console)\b", re.MULTILINE)
    assert len(blocks) == sum(len(fences.findall(guide.read_text())) for guide in GUIDES)


def test_every_setting_is_listed_and_none_that_there_is_not() -> None:
    named = {name for guide in GUIDES for name in re.findall(r"\bSGN_[A-Z_]+", guide.read_text())}
    assert named == {row.variable for row in settings_table()}


def anchors(guide: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", guide.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_links_within_the_project_lead_somewhere(guide: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)", guide.read_text()):
        target = guide.parent / path if path else guide
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_convention_itself() -> None:
    text = "a\n```sh\nmake serve\n```\n\n<!-- not run: takes an hour -->\n```sh\npython -m training\n```\n"
    first, second = read_blocks(text + "```sh\ncurl x\n```\n\n```json\n{}\n```\n")[:2]
    assert (first.commands, first.reason) == ("make serve\n", None)
    assert (second.commands, second.reason) == ("python -m training\n", "takes an hour")
    assert read_blocks("```sh\ncurl x\n```\n\n```json\n{}\n```\n")[0].output == "{}\n"
    assert as_run("make serve\nSGN_TOP_K=2 bentoml serve --port 3000\ncurl localhost:3000/x", "http://h:1") == (
        "set -euo pipefail\nmake -n serve\nSGN_TOP_K=2 python -m sgn_serve.check\ncurl http://h:1/x"
    )
    assert same({"a": [0.5, "b", True]}, {"a": [0.5004, "b", True]})
    assert not same({"a": 0.5}, {"a": 0.6})
    assert not same({"a": 1}, {"a": 1, "b": 2})
