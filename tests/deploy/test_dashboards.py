"""The Grafana dashboard and the alerts ask for what a running server says, and for nothing else."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from sgn_serve.http.errors import refusal_rows
from tests.sgn_serve.sample_pictures import encode, noise
from tests.sgn_serve.server import ROOT, Server

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
AUTOSCALER = ROOT / "deploy" / "kubernetes" / "base" / "autoscaler.yaml"
OF_PROMETHEUS = {"instance", "job"}
"""Labels that it gives to everything that it scrapes."""


@dataclass(frozen=True)
class Question:
    """where: for a message; expression: PromQL; shown: the labels that its title or legend shows"""

    where: str
    expression: str
    shown: frozenset[str]


def alert_questions() -> list[Question]:
    rules = [
        rule for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
    ]
    return [
        Question(rule["alert"], rule["expr"], frozenset(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))))
        for rule in rules
    ]


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def dashboard_questions() -> list[Question]:
    questions = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
            legend = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            questions.append(Question(panel["title"], expression, legend))
    return questions


QUESTIONS = alert_questions() + dashboard_questions()


@dataclass(frozen=True)
class Asked:
    """selectors: names of samples, with the labels that are looked at; grouped: labels that sums are kept by"""

    selectors: list[tuple[str, frozenset[str]]]
    grouped: frozenset[str]


def asked(expression: str) -> Asked:
    selectors: list[tuple[str, frozenset[str]]] = []
    grouped: set[str] = set()

    def note(part: Any) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            assert part.name is not None
            selectors.append((part.name, frozenset(matcher.name for matcher in part.matchers.matchers)))
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            grouped.update(part.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), pre_visit=note)
    return Asked(selectors, frozenset(grouped))


@pytest.fixture(scope="module")
def scraped(deployed_server: Server) -> dict[str, set[frozenset[str]]]:
    """Return the sets of labels by sample name, of a server that has answered and refused."""
    picture = encode(Image.fromarray(noise(32, 32)))
    url = deployed_server.url
    for flag in ("true", "false"):
        answer = httpx.post(f"{url}/classify", files={"image": picture}, data={"self_gradient": flag}, timeout=60)
        assert answer.status_code == 200
    assert httpx.post(f"{url}/classify", files={"image": b"no picture"}).status_code == 415
    assert httpx.get(f"{url}/no/such/path").status_code == 404
    text = httpx.get(f"{url}/metrics").text
    found: dict[str, set[frozenset[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).add(frozenset(sample.labels))
    return found


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.where)
def test_a_server_says_what_is_asked(question: Question, scraped: dict[str, set[frozenset[str]]]) -> None:
    wanted = asked(question.expression)
    assert wanted.selectors
    labels = set(OF_PROMETHEUS)
    for name, looked_at in wanted.selectors:
        assert name in scraped, f"no server says {name}"
        for of_sample in scraped[name]:
            assert looked_at <= of_sample | OF_PROMETHEUS, f"{name} has no labels {sorted(looked_at - of_sample)}"
            labels |= of_sample
    assert wanted.grouped <= labels
    if "by" in question.expression:
        assert question.shown <= wanted.grouped, "a sum has only the labels that it is kept by"
    else:
        assert question.shown <= labels


def test_every_metric_is_on_the_dashboard(scraped: dict[str, set[frozenset[str]]]) -> None:
    shown = {name for question in dashboard_questions() for name, _ in asked(question.expression).selectors}
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in scraped if name.startswith("sgn_")}
    assert families - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} == set()


def test_the_checks_above_would_see_a_mistake() -> None:
    assert asked('sum by (code) (rate(sgn_x_total{code="y", z=~"."}[5m])) / foo').selectors == [
        ("sgn_x_total", {"code", "z"}),
        ("foo", frozenset()),
    ]
    assert asked('sum by (code) (rate(sgn_x_total{code="y"}[5m]))').grouped == {"code"}
    with pytest.raises(ValueError, match=r"."):
        promql_parser.parse("sum by (code (rate(x[5m]))")


def test_alerts_wait_for_codes_and_routes_that_there_are() -> None:
    """A label's value that nobody uses would be an alert that never fires."""
    known = {"code": {row.code for row in refusal_rows()}, "route": {"/classify"}, "outcome": {"refused"}}
    for question in alert_questions():
        for label, operator, values in re.findall(r'(\w+)(=~?)"([^"]*)"', question.expression):
            for value in values.split("|") if operator == "=~" else [values]:
                assert value in known[label], f"{question.where}: {label}={value}"


def test_the_autoscalers_metric_is_there_and_the_adapter_hands_it_on(scraped: dict[str, set[frozenset[str]]]) -> None:
    scaler = yaml.safe_load(AUTOSCALER.read_text())
    (name,) = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]]
    assert name in scraped
    (rule,) = yaml.safe_load((PROMETHEUS / "adapter-values.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == name
    series = promql_parser.parse(rule["seriesQuery"])
    assert isinstance(series, promql_parser.VectorSelector)
    assert series.name == name


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    content = dashboard()
    panels = content["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in content["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) <= variables | {"__rate_interval", "__all"}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus"
)


@needs_promtool
@pytest.mark.parametrize("command", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yaml"]])
def test_prometheus_takes_the_rules_and_fires_when_it_should(command: list[str]) -> None:
    done = subprocess.run(
        ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire() -> None:
    fired = (PROMETHEUS / "alerts.test.yaml").read_text()
    for question in alert_questions():
        assert f'alertname="{question.where}"' in fired or re.search(
            rf"alertname: {question.where}\n +exp_alerts", fired
        ), question.where
        assert f"alertname: {question.where}}}" in fired, "and not to, while all is well"
