"""The documentation site: it is built strictly, loads nothing from elsewhere, and is written in short sentences."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
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
from sgn_serve.http.errors import refusal_rows
from sgn_serve.settings import settings_table
from sgn_serve.telemetry.metrics import metric_rows
from tests.sgn_serve.browser import running_browser, watched_page
from training.attacks.registry import ENTRIES
from training.convert.command import build_parser as convert_parser
from training.evaluate.command import build_parser

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


def test_the_reference_lists_every_option_and_attack() -> None:
    for parser, name in ((build_parser(), "evaluat"), (convert_parser(), "convert")):
        described = "".join(INSERTS[insert]() for insert in INSERTS if name in insert)
        for action in parser._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or option.startswith("--no-") or option in described, option
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
    (job,) = workflow["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    (kept,) = (step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert (kept["if"], kept["with"]["path"]) == ("always()", "build/ui"), "the pictures of the page, whatever failed"
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert lowest == f">={job['strategy']['matrix']['python'][0]}"
