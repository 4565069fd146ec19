"""Run what the README, CONTRIBUTING.md and the pages of docs/ tell people to type.

Every ```sh block is run by bash, and every ```python block by Python, in a folder that looks like the checkout. Blocks
of one page share a folder and are run in order; a test of one block runs those before it first. The differences:

- after a line `<!-- not run: REASON; see PATH -->` directly before it, a block is left alone. PATH, from the page, is a
  page or a test that shows the same in small;
- `make ...` becomes `make -n ...`: the target exists and its recipe can be worked out;
- `[VARIABLE=value ...] bentoml serve ...` becomes `python -m sgn_serve.check` with the same variables: the settings and
  the model can be served. Requests to localhost:3000 go to a server that this test has started;
- `sgn ...` becomes `python -m sgn ...`, and `sgn serve ...` is checked as `bentoml serve` is, its options as settings;
- `python` has imported PyTorch and the like already, and the checks of a report take few steps: see
  tests/warm_python.py;
- `--pictures 10` becomes `--pictures 4`;
- what commands write stays out of the checkout.

A ```json block directly after a block is what that block prints: the same keys and words, numbers within 0.001. A
```text block there is too, whatever its numbers are.
"""

import argparse
import importlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pytest

from docs.generator.pages import fill
from sgn.command import COMMANDS
from sgn_serve.command import build_parser as serve_parser
from sgn_serve.settings import settings_table
from tests.sgn_serve.server import Server

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK_LIMIT_SECONDS = 600
LEFT_OUT = {".git", ".venv", "runs", "data", "build", "dist", "__pycache__"}

BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*?)(?:; see (?P<instead>\S+))? -->\n+)?"
    r"^```(?P<language>sh|python)\n(?P<commands>.*?)^```\n(?:\n*^```(?P<form>json|text)\n(?P<output>.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)
OUTPUT = re.compile(r"(?:^(<!-- not run: [^\n]* -->)\n+)?^```(json|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A block that shows an output, wherever it stands."""
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Block:
    """A block of commands.

    Attributes:
        page: the file that it stands in
        number: its place among the page's blocks, from 1
        language: sh or python
        commands: as they stand
        reason: why they are not run, or None
        instead: where the same is shown in small, for blocks that are not run
        form: json or text, or None
        output: what they print in this form, or None
    """

    page: Path
    number: int
    language: str
    commands: str
    reason: str | None
    instead: str | None
    form: str | None
    output: str | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def read_blocks(page: Path, text: str) -> list[Block]:
    return [Block(page, number, **match.groupdict()) for number, match in enumerate(BLOCK.finditer(text), 1)]


BLOCKS = [block for page in PAGES for block in read_blocks(page, page.read_text())]
RUN = [block for block in BLOCKS if block.reason is None]
NOT_RUN = [block for block in BLOCKS if block.reason is not None]


def as_run(block: Block, server_url: str) -> list[str]:
    """Return the command line of a block, with the differences that the top of this file lists."""
    if block.language == "python":
        # The clients of other servers want the address without its scheme, so it stays as the page has it.
        return ["python", "-c", block.commands.replace("localhost:3000", server_url.removeprefix("http://"))]
    commands = re.sub(r"(?:http://)?localhost:3000", server_url, block.commands)
    commands = re.sub(r"--pictures 10\b", "--pictures 4", commands)
    commands = re.sub(r"^make\b", "make -n", commands, flags=re.MULTILINE)
    commands = re.sub(
        r"^((?:\w+=\S* +)*)bentoml serve\b.*$", r"\1python -m sgn_serve.check", commands, flags=re.MULTILINE
    )
    commands = re.sub(r"^sgn serve\b(.*)$", lambda found: as_settings(found[1]), commands, flags=re.MULTILINE)
    commands = re.sub(r"^sgn\b", "python -m sgn", commands, flags=re.MULTILINE)
    return ["bash", "-c", "set -euo pipefail\n" + commands]


def as_settings(options: str) -> str:
    """Return the check of what `sgn serve` would serve with these options."""
    parsed = vars(serve_parser().parse_args(shlex.split(options)))
    given = [f"{name}={shlex.quote(value)}" for name, value in parsed.items() if name.startswith("SGN_") and value]
    return " ".join([*given, "python -m sgn_serve.check"])


def same(documented: Any, printed: Any) -> bool:
    """Return whether both are equal but for rounding."""
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
def run_block(
    bundled_server: Server, warm_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Block], None]:
    """Run a block once, in its page's folder."""
    folders: dict[Path, Path] = {}
    done: set[Block] = set()
    path = os.pathsep.join([str(warm_python.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SGN_")} | {"PATH": path}

    def run(block: Block) -> None:
        if block in done:
            return
        if block.page not in folders:
            folders[block.page] = tmp_path_factory.mktemp(block.page.stem)
            for entry in ROOT.iterdir():
                if entry.name not in LEFT_OUT:
                    (folders[block.page] / entry.name).symlink_to(entry)
        ran = subprocess.run(
            as_run(block, bundled_server.url),
            cwd=folders[block.page],
            env=environment,
            capture_output=True,
            text=True,
            timeout=BLOCK_LIMIT_SECONDS,
            check=False,
        )
        told = f"{block.name}\n{block.commands}\n{ran.stdout}\n{ran.stderr}"
        assert ran.returncode == 0, told
        assert '{"error":' not in ran.stdout, told
        if block.output is not None and block.form == "json":
            assert same(json.loads(block.output), json.loads(ran.stdout)), told
        elif block.output is not None:
            documented, printed = (NUMBER.sub("1", text).split() for text in (block.output, ran.stdout))
            assert documented == printed, told
        done.add(block)

    return run


LONG_PAGES = (
    "docs/tutorials/judge-a-model.md",
    "docs/tutorials/own-folder.md",
    "docs/how-to/own-weights.md",
    "docs/how-to/own-backbone.md",
    "docs/how-to/size-the-service.md",
)
"""Pages that train, judge or export networks, or put load on a server."""


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=block.name, marks=pytest.mark.thorough if block.name.startswith(LONG_PAGES) else ())
        for block in RUN
    ],
)
def test_a_block_does_what_it_says(block: Block, run_block: Callable[[Block], None]) -> None:
    for earlier in RUN:
        if earlier.page == block.page and earlier.number <= block.number:
            run_block(earlier)


def unchecked_outputs(text: str) -> list[str]:
    """Return the outputs on a page that neither follow a block that is run nor say why they do not.

    JSON is an output, and so is a text with a number that was measured. Other texts are sketches and formulas.
    """
    checked = [match["output"] for match in BLOCK.finditer(text) if match["output"] and match["reason"] is None]
    return [
        output
        for mark, form, output in OUTPUT.findall(text)
        if not mark and output not in checked and (form == "json" or re.search(r"\d\.\d", output))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_output_is_compared_or_says_why_not(page: Path) -> None:
    text = page.read_text()
    assert unchecked_outputs(text) == []
    marks = re.findall(r"^<!-- not run: (.*?)(?:; see (\S+))? -->\n+```(?:json|text)$", text, re.MULTILINE)
    for reason, instead in marks:
        assert len(reason) > 10
        assert (page.parent / instead).is_file(), "write `; see PATH` after the reason"


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.name)
def test_a_block_that_is_not_run_says_why_and_where_the_same_is_shown(block: Block) -> None:
    assert block.reason is not None
    assert len(block.reason) > 10
    assert block.instead is not None, "write `; see PATH` after the reason"
    assert (block.page.parent / block.instead).is_file()


PROGRAMS = {importlib.import_module(command.module).PROGRAM: name for name, command in COMMANDS.items()}
"""Commands of `sgn` by their long names."""


def command_lines(block: Block) -> Iterator[list[str]]:
    """Yield the words of each line, without assignments before its command. Variables are filled in."""
    variables: dict[str, str] = {}
    for line in fill(block.commands).replace("\\\n", " ").splitlines():
        variables.update(re.findall(r'^([a-z_]+)="(.*)"$', line))
        words = shlex.split(Template(line).safe_substitute(variables), comments=True)
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        yield words


def lines_of_programs(block: Block) -> list[list[str]]:
    """Return the arguments of each line that is a command of `sgn`, its name first."""
    found = []
    for words in command_lines(block):
        long_name = " ".join(words[:3])
        if words[:1] == ["sgn"]:
            found.append(words[1:])
        elif long_name in PROGRAMS:
            found.append([PROGRAMS[long_name], *words[3:]])
    return found


def lines_of_modules(block: Block) -> list[tuple[str, list[str]]]:
    """Return the module and the arguments of each line that runs another program of this project."""
    return [
        (words[2], words[3:])
        for words in command_lines(block)
        if words[:2] == ["python", "-m"]
        and " ".join(words[:3]) not in PROGRAMS
        and words[2].partition(".")[0] in ("training", "release", "benchmarks")
    ]


PARSED = [block for block in NOT_RUN if block.language != "python" and lines_of_programs(block)]


@pytest.mark.parametrize("block", PARSED, ids=lambda block: block.name)
def test_a_command_that_is_not_run_is_one_that_its_program_takes(block: Block) -> None:
    for name, *arguments in lines_of_programs(block):
        importlib.import_module(COMMANDS[name].module).build_parser().parse_args(arguments)


MODULES = [block for block in NOT_RUN if block.language != "python" and lines_of_modules(block)]


class Parsed(BaseException):
    """A command line was taken. No program catches this."""


def main_of(module: str) -> Callable[[], int]:
    """Return what `python -m MODULE` calls: the main function of a module, or of a package's command.py."""
    imported = importlib.import_module(module)
    main = getattr(imported, "main", None) or importlib.import_module(f"{module}.command").main
    assert callable(main)
    return main


@pytest.mark.parametrize("block", MODULES, ids=lambda block: block.name)
def test_options_of_a_program_that_is_not_run_are_taken(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        parse(parser, args, namespace)
        raise Parsed

    for module, arguments in lines_of_modules(block):
        main = main_of(module)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", [module, *arguments])
            patched.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
            with pytest.raises(Parsed):
                main()


def test_programs_that_are_not_run_are_found() -> None:
    modules = {module for block in MODULES for module, _ in lines_of_modules(block)}
    assert {"training.defend", "release.referee", "release.gpu"} <= modules


def test_install_serve_test_and_a_request_are_in_the_readme() -> None:
    run = "\n".join(block.commands for block in RUN if block.page == README)
    for command in (r"^make serve\b", r"^make test\b", r"^curl .*/classify"):
        assert re.search(command, run, re.MULTILINE), command


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_every_block_of_commands_is_seen() -> None:
    fences = re.compile(r"^\s*```(?:sh|bash|shell|console|python|py)\b", re.MULTILINE)
    assert len(BLOCKS) == sum(len(fences.findall(page.read_text())) for page in PAGES)


def test_every_setting_is_listed_and_none_that_there_is_not() -> None:
    pages = [fill(page.read_text()) for page in PAGES if page.is_relative_to(ROOT / "docs")]
    text = "\n".join([README.read_text(), *pages])
    assert set(re.findall(r"\bSGN_[A-Z_]+", text)) == {row.variable for row in settings_table()}


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_convention_itself() -> None:
    text = (
        "a\n```sh\nmake serve\n```\n\n<!-- not run: takes an hour; see x.md -->\n```sh\npython -m training\n```\n"
        "```sh\ncurl x\n```\n\n```json\n{}\n```\n\n```python\nask('localhost:3000')\n```\n"
    )
    first, second, third, fourth = read_blocks(README, text)
    assert (first.commands, first.reason, first.name) == ("make serve\n", None, "README.md:1")
    assert (second.commands, second.reason, second.instead) == ("python -m training\n", "takes an hour", "x.md")
    assert (third.form, third.output, fourth.language) == ("json", "{}\n", "python")
    assert unchecked_outputs(text) == []
    unmarked = "As prose says:\n\n```json\n{}\n```\n\n```text\ntook 1.5 s\n```\n\n```text\na -> b\n```\n"
    assert unchecked_outputs(unmarked) == ["{}\n", "took 1.5 s\n"]
    assert unchecked_outputs(f"<!-- not run: it fails; see x.md -->\n{unmarked[16:]}") == ["took 1.5 s\n"]
    (shell,) = read_blocks(
        README, "```sh\nmake serve\nSGN_TOP_K=2 bentoml serve\ncurl localhost:3000/x\nsgn judge --pictures 10\n```\n"
    )
    assert as_run(shell, "http://h:1")[-1] == (
        "set -euo pipefail\nmake -n serve\nSGN_TOP_K=2 python -m sgn_serve.check\ncurl http://h:1/x\n"
        "python -m sgn judge --pictures 4\n"
    )
    assert same({"a": [0.5, "b", True]}, {"a": [0.5004, "b", True]})
    assert not same({"a": 0.5}, {"a": 0.6})
    assert not same({"a": 1}, {"a": 1, "b": 2})
