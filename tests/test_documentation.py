"""The documentation site: it is built strictly, loads nothing from elsewhere, and is written in short sentences."""

import argparse
import ast
import functools
import http.server
import importlib
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from docs.generator.command_lines import intensity
from docs.generator.figures import NAMED
from docs.generator.inserts import INSERTS
from docs.generator.judge_cost import judge_cost
from docs.generator.pages import FIGURE, INSERT, PageError, fill
from docs.generator.results import result
from sgn.command import COMMANDS
from sgn_serve.http.errors import refusal_rows
from sgn_serve.settings import settings_table
from sgn_serve.telemetry.metrics import metric_rows
from tests.sgn_serve.browser import running_browser, watched_page
from training.attacks.registry import ENTRIES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
MOST_WORDS = 25


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class References(HTMLParser):
    """Collect what a page loads, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value for key, value in attrs if value is not None}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])
        elif tag == "link" and "href" in values and values.get("rel") not in ("next", "prev", "canonical"):
            self.loads.append(values["href"])


@pytest.fixture(scope="module")
def references(site: Path) -> dict[Path, References]:
    found = {}
    for page in sorted(site.rglob("*.html")):
        found[page] = References()
        found[page].feed(page.read_text())
    return found


@pytest.mark.thorough
def test_no_page_loads_anything_from_elsewhere(site: Path, references: dict[Path, References]) -> None:
    assert len(references) > len(PAGES)  # the page for addresses that are not there is one too
    for page, found in references.items():
        for address in found.loads:
            assert not urlsplit(address).netloc, f"{page}: {address}"
            if page.name != "404.html":
                assert (page.parent / unquote(urlsplit(address).path)).is_file(), f"{page}: {address}"
    for sheet in site.rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", sheet.read_text()):
            assert not urlsplit(address).netloc, f"{sheet}: {address}"


def test_every_link_leads_somewhere(references: dict[Path, References]) -> None:
    for page, found in references.items():
        if page.name == "404.html":
            continue
        for address in found.links:
            parts = urlsplit(address)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page}: {address}"
            if parts.fragment and target in references:
                assert unquote(parts.fragment) in references[target].anchors, f"{page}: {address}"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site_url(site: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_browser_asks_nobody_else_and_finds_what_is_searched(site_url: str) -> None:
    """watched_page fails for every request to another host, and for every complaint in the console."""
    with running_browser() as browser, watched_page(browser, site_url) as watched:
        watched.page.goto("/reference/settings.html")
        watched.page.get_by_role("textbox", name="Search").press_sequentially("disagreement")  # it listens to keys
        watched.page.locator(".md-search-result__link").first.wait_for()


def sentences(text: str) -> list[str]:
    """Return the sentences of a page, without its code, tables and marks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(?: {4}.*\n)+", "", text, flags=re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    found = []
    for paragraph in re.split(r"\n\s*\n|^#+ .*$|^\|.*$|^\s*(?:[-*]|\d+\.) ", text, flags=re.MULTILINE):
        whole = " ".join(FIGURE.sub("1", paragraph).split())
        found += re.split(r"(?<=[.!?:])[\"*)]*\s+(?=[\"*(`\[]*[A-Z0-9`])|(?<=:)\s", whole)
    return [sentence for sentence in found if sentence]


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_sentences_are_short(page: Path) -> None:
    for sentence in sentences(page.read_text()):
        words = re.findall(r"\S*\w\S*", sentence)
        assert len(words) <= MOST_WORDS, f"{len(words)} words: {sentence}"


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_sentences_begin_with_their_subject_or_verb(page: Path) -> None:
    begun = [one for one in sentences(page.read_text()) if re.match(r"\W*(Of|As|Within|What)\b", one)]
    assert begun == []


def test_sentences_are_found() -> None:
    text = "# A title\n\nOne is short. Two has `code.py` in it!\n\n- three\n- four: five\n"
    text += "\n```sh\nnot this\n```\n\n| nor | this |\n"
    assert sentences(text) == ["One is short.", "Two has `code.py` in it!", "three", "four:", "five"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_mark_is_filled_in(page: Path) -> None:
    filled = fill(page.read_text())
    if page.stem not in ("contributing", "changelog"):  # the first of which explains the marks
        assert not INSERT.search(filled)
        assert not FIGURE.search(filled)


def test_no_insert_and_no_figure_is_left_over() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert set(INSERT.findall(text)) == set(INSERTS)
    assert set(FIGURE.findall(text)) >= set(NAMED)


@pytest.mark.parametrize(
    "text", ["<!-- insert: nothing -->", "{{ nothing }}", "{{ bundled/longer: block off: no-attack }}"]
)
def test_an_unknown_mark_is_an_error(text: str) -> None:
    with pytest.raises(PageError, match="no"):
        fill(text)


MEASURED = re.compile(r"\d+\.\d+")
SAID = {
    "docs/results/bundled-model.md": {"3.4"},  # core-hours, estimated
    "docs/results/robustness.md": {"0.7", "0.1", "0.9", "0.5", "3.4"},  # parameters, p, thresholds, chance, estimated
    "docs/results/speed.md": {
        "3.0",
        "2.7",
        "1.4",
        "1.24",
        "2.8",
    },  # aims, a version, a bound of memory
}
"""Figures that pages of results write themselves. Every other one is filled in from results/."""


@pytest.mark.parametrize("page", sorted((DOCS / "results").glob("*.md")), ids=name)
def test_measured_figures_are_filled_in(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", FIGURE.sub("", page.read_text()), flags=re.DOTALL | re.MULTILINE)
    assert set(MEASURED.findall(text)) == SAID.get(name(page), set())


NOT_MEASURED = {
    "docs/explanation/auto.md": {"99.8", "1.3", "0.3"},  # a threshold of agreement, bounds
    "docs/explanation/checklist.md": {"0.97", "0.9", "0.5", "0.2"},  # thresholds, which a test below compares
    "docs/explanation/fast-graph.md": {"2.25"},  # multiplications that Winograd saves
    "docs/how-to/call-from-python.md": {"0.5"},  # a first wait in seconds
    "docs/how-to/defences.md": {"0.15"},  # the step of a source
    "docs/how-to/gpu.md": {"2.11", "0.05", "0.1", "0.01"},  # a version, levels of significance
    "docs/how-to/kubernetes.md": {"1.29", "1.37"},  # versions
    "docs/how-to/more-than-one-machine.md": {"0.5"},  # an example of an option
    "docs/how-to/secure-the-service.md": {"5.13"},  # a version of Linux
    "docs/how-to/train.md": {"4.5", "0.08"},  # values of a source
    "docs/tutorials/first-request.md": {"3.11"},  # a version of Python
}
"""Figures that the other pages write themselves."""


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name != "results" and page.stem not in ("contributing", "changelog")],
    ids=name,
)
def test_no_other_page_writes_a_measured_figure_itself(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)", "", FIGURE.sub("", page.read_text()), flags=re.DOTALL | re.M)
    assert set(re.findall(r"(?<![\d.])\d+\.\d+(?!\.?\d)", text)) <= NOT_MEASURED.get(name(page), set())


def test_what_judging_costs_adds_up_to_the_report() -> None:
    found = result("bundled/self-gradient")
    seconds = [row["core_seconds"] for row in found["rows"] if row["id"]["state"] == "block on"]
    hours = sum(seconds) / found["setting"]["pictures"] * 1000 / 3600
    head, *_, total = [[cell.strip() for cell in line.split("|")] for line in judge_cost().splitlines()]
    assert total[head.index("wrn-16-2, block on")] == f"{hours:.2f} ({len(seconds)})"


def test_every_item_of_the_checklist_is_explained_with_its_threshold() -> None:
    text = (DOCS / "explanation" / "checklist.md").read_text()
    for item in result("bundled/self-gradient")["checklist"]:
        title = item["name"][0].upper() + item["name"][1:]
        section = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^#)", text, re.MULTILINE | re.DOTALL)
        assert section is not None, title
        written = [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", section[1])]
        thresholds = [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", item["threshold"])]
        for threshold in thresholds:
            close = [
                number for number in written if abs(number - threshold) < 1e-9 or abs(number - 100 * threshold) < 1e-9
            ]
            assert close, f"{title}: {item['threshold']}"


DESCRIBED = {
    "training.options": ("command-training", "training-options"),
    "training.evaluate.command": ("command-evaluate", "evaluation-options"),
    "training.convert.command": ("command-convert", "convert-options"),
    "training.reproduce.command": ("command-reproduce",),
    "training.defend": ("command-defend",),
    "export.command": ("command-export",),
    "sgn_serve.command": ("command-serve",),
    "sgn_serve.classify.command": ("command-classify",),
    "sgn_serve.classify.report.command": ("command-report",),
    "release.hostile.command": ("command-hostile",),
}
"""The tables of a page that describe the options of a module's parser."""


def undescribed(actions: Iterable[argparse.Action], tables: str) -> list[str]:
    """Return the options that stand in no first column of these tables."""
    names = " ".join(re.findall(r"^\| `([^`]*)`", tables, re.MULTILINE))
    described = set(re.findall(r"(?<![\w-])--?[\w-]+", names))
    return [
        option
        for action in actions
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
        for option in action.option_strings
        if option not in described
        and not (isinstance(action, argparse.BooleanOptionalAction) and option.startswith("--no-"))
    ]


@pytest.mark.parametrize("module", DESCRIBED)
def test_the_reference_lists_every_option(module: str) -> None:
    parser = importlib.import_module(module).build_parser()
    assert undescribed(parser._actions, "\n".join(INSERTS[insert]() for insert in DESCRIBED[module])) == []


def test_the_reference_has_every_command_of_sgn() -> None:
    assert {command.module for command in COMMANDS.values()} - {"training.command"} <= DESCRIBED.keys()
    shown = INSERT.findall((DOCS / "reference" / "command-lines.md").read_text())
    assert {insert for module, inserts in DESCRIBED.items() for insert in inserts} - set(shown) == {"command-hostile"}


def options_of(code: str) -> set[str]:
    """Return the options that a program's source adds to parsers by name, also where they switch something off."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return {
        prefix + str(argument.value).removeprefix("--")
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("--")
        for prefix in (("--", "--no-") if "BooleanOptionalAction" in ast.unparse(call) else ("--",))
    }


def named_options(text: str) -> set[str]:
    """Return the options that a page names in backticks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return {
        option for code in re.findall(r"`([^`]+)`", text) for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
    }


OTHERS_OPTIONS = {
    "--build-arg": "docker build",
    "--constraint": "pip install",
    "--data-binary": "curl",
    "--editable": "pip install",
    "--head": "ray start",
}
"""Options of other programs that pages name, and the program of each."""


def test_every_option_that_a_page_names_is_one() -> None:
    parsers = [importlib.import_module(module).build_parser() for module in DESCRIBED]
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    for folder in ("benchmarks", "deploy", "release", "sgn"):
        for path in (ROOT / folder).rglob("*.py"):
            known |= options_of(path.read_text())
    changelog = ROOT / "CHANGELOG.md"  # it names options of earlier versions too
    named = {page: named_options(page.read_text()) for page in WRITTEN if page != changelog}
    assert len(set().union(*named.values())) > 50
    unknown = {name(page): found - known - OTHERS_OPTIONS.keys() for page, found in named.items()}
    assert {page: found for page, found in unknown.items() if found} == {}
    assert not OTHERS_OPTIONS.keys() & known
    assert set().union(*named.values()) >= OTHERS_OPTIONS.keys()


def test_an_option_is_found_as_a_page_and_a_program_write_it() -> None:
    assert named_options("`sgn x --one=2 a--b --`, --three\n```sh\n--four `--five`\n```\n[`--six-y`](z)") == {
        "--one",
        "--six-y",
    }
    added = 'p.add_argument("--a", "-b", action=argparse.BooleanOptionalAction)\np.add_argument("c")\nq.add("--d")'
    assert options_of(added) == {"--a", "--no-a"}


def test_an_option_that_is_part_of_another_one_is_missed() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--pictures")
    table = "| option | meaning |\n| --- | --- |\n| `--pictures-too X` | not --pictures |\n"
    assert undescribed(parser._actions, table) == ["--pictures"]


def test_the_reference_lists_every_attack() -> None:
    for attack in ENTRIES:
        assert f"`{attack}`" in INSERTS["attacks"]()


def test_the_reference_lists_every_error_setting_and_metric() -> None:
    for page, names in (
        ("errors", [row.code for row in refusal_rows()]),
        ("settings", [row.variable for row in settings_table()]),
        ("metrics", [row.name for row in metric_rows()]),
    ):
        text = fill((DOCS / "reference" / f"{page}.md").read_text())
        assert not [one for one in names if f"`{one}`" not in text]


def test_intensities_are_written_as_people_write_them() -> None:
    assert (intensity(8 / 255), intensity(0.1), intensity(1.0)) == ("8/255", "0.1", "1")


def test_contributing_lists_the_layers_that_are_checked() -> None:
    text = CONTRIBUTING.read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [contract for contract in contracts if contract["name"].startswith("Layers of ")]
    assert len(layers) == 3
    for contract in layers:
        (package,) = contract["containers"]
        row = re.search(rf"^\| `{package}` \| (.*) \|$", text, re.MULTILINE)
        assert row is not None
        written = [set(re.findall(r"`(\w+)`", layer)) for layer in row[1].split(";")]
        assert written == [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]


def test_contributing_names_places_that_there_are() -> None:
    named = re.findall(
        r"`((?:training|export|sgn_serve|release|benchmarks|docs|tests)/[\w/.]*)`", CONTRIBUTING.read_text()
    )
    assert len(named) > 10
    for place in named:
        assert (ROOT / place).exists(), place


def test_a_test_that_a_page_names_is_there() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 10
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named <= set(re.findall(r"^def (test_\w+)\(", written, re.MULTILINE))


def test_pre_commit_checks_what_make_check_does() -> None:
    recipe = re.search(r"^check: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == commands
    assert {hook["language"] for hook in local["hooks"]} == {"system"}


def test_the_workflow_runs_what_must_pass_on_every_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["ci"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    (kept,) = (step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert (kept["if"], kept["with"]["path"]) == ("always()", "build/ui"), "the pictures of the page, whatever failed"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = job["strategy"]["matrix"]["python"]
    said = [text.rpartition(" ")[2] for text in project["classifiers"] if re.search(r"Python :: 3\.\d", text)]
    assert said == versions
    assert project["requires-python"] == f">={versions[0]}"
    assert f"Python {versions[0]} to {versions[-1]}" in CONTRIBUTING.read_text()


def test_a_schedule_and_a_target_run_the_slow_tests() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow[True]["schedule"], "YAML takes the key `on` for true"
    assert [step["run"].split()[:2] for step in workflow["jobs"]["slow"]["steps"] if "run" in step] == [
        ["make", "test-slow"]
    ]
    recipe = re.search(r"^test-slow: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert " -m slow " in recipe[1]
