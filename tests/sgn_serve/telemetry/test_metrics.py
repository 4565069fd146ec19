"""Test /metrics of a running server: exactly the declared metrics, in few series."""

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from sgn_serve.telemetry import metrics
from tests.sgn_serve.hammer import RED
from tests.sgn_serve.sample_pictures import encode, noise

TRUNCATED = encode(Image.fromarray(noise()))[:100]


def scrape(client):
    """Return the value of every sample by (name, labels)."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def change(client, ask):
    """Return how much each value rises while `ask` is called, without the scrapes themselves."""
    before = scrape(client)
    ask()
    after = scrape(client)
    risen = {key: value - before.get(key, 0.0) for key, value in after.items() if value != before.get(key, 0.0)}
    return {key: value for key, value in risen.items() if ("route", "/metrics") not in key[1]}


def exposed(text):
    """Return the type and labels of each metric by its name."""
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels}
        found[name] = (family.type, labels - {"le"})
    return found


def test_what_is_declared_is_there_and_nothing_else(client):
    client.post("/classify", files={"image": RED})
    client.post("/classify")
    declared = {row.name: (row.type, set(row.labels)) for row in metrics.metric_rows()}
    assert exposed(client.get("/metrics").text) == declared


def test_every_metric_says_what_it_counts():
    rows = metrics.metric_rows()
    assert len({row.name for row in rows}) == len(rows) == 28
    text = metrics.exposition().decode()
    for row in rows:
        assert row.meaning.endswith("."), row.name
        assert f"# HELP {row.name} {row.meaning}" in text


def test_a_request_is_counted(client):
    risen = change(client, lambda: client.post("/classify", files={"image": RED}))
    route = (("route", "/classify"),)
    for name, labels in (
        ("sgn_requests_total", (("method", "POST"), ("route", "/classify"), ("status", "200"))),
        ("sgn_request_seconds_count", route),
        ("sgn_decode_seconds_count", ()),
        ("sgn_queue_seconds_count", ()),
        ("sgn_batch_pictures_count", ()),
        ("sgn_batch_pictures_sum", ()),
        ("sgn_inference_seconds_count", (("block", "on"),)),
        ("sgn_pictures_total", (("block", "on"),)),
        ("sgn_disagreement_bits_count", ()),
    ):
        assert risen[name, labels] == 1, name
    assert 0 < risen["sgn_request_seconds_sum", route] < 60
    assert not any(name.startswith("sgn_errors") or dict(labels).get("block") == "off" for name, labels in risen)


def test_the_block_off_and_several_pictures(client):
    def ask():
        client.post("/classify_batch", files=[("images", RED)] * 3, data={"self_gradient": "false"})

    risen = change(client, ask)
    assert risen["sgn_pictures_total", (("block", "off"),)] == 3
    assert risen["sgn_batch_pictures_sum", ()] == 3
    assert risen["sgn_decode_seconds_count", ()] == 3
    assert ("sgn_disagreement_bits_count", ()) not in risen


def test_errors_are_counted_by_code_those_within_a_batch_too(client):
    def ask():
        client.post("/classify", files={"image": b"no picture"})
        client.post("/classify_batch", files=[("images", RED), ("images", b"no picture"), ("images", TRUNCATED)])
        client.post("/classify")

    risen = change(client, ask)
    errors = {dict(labels)["code"]: value for (name, labels), value in risen.items() if name == "sgn_errors_total"}
    assert errors == {"not_an_image": 2, "damaged_image": 1, "empty_body": 1}


def test_whatever_clients_send_labels_stay_few(client):
    def ask():
        for number in range(60):
            client.get(f"/unknown/{number}")
            client.get(f"/v2/models/model-{number}")
            client.delete(f"/classify?x={number}")
            client.get(f"/classify_batch?x={number}", headers={"x-request-id": f"id-{number}"})

    risen = change(client, ask)
    requests = {labels: value for (name, labels), value in risen.items() if name == "sgn_requests_total"}
    assert requests == {
        (("method", "GET"), ("route", "other"), ("status", "404")): 60,
        (("method", "GET"), ("route", "/v2/models/{name}"), ("status", "404")): 60,
        (("method", "other"), ("route", "/classify"), ("status", "405")): 60,
        (("method", "GET"), ("route", "/classify_batch"), ("status", "405")): 60,
    }


def test_which_model_is_served(client):
    card = client.get("/model").json()
    models = {labels: value for (name, labels), value in scrape(client).items() if name == "sgn_model_info" and value}
    ((labels, workers),) = models.items()
    assert workers == 1
    told = dict(labels)
    assert (told["model"], told["graph_sha256"], told["name"]) == (card["model"], card["graph_sha256"], card["name"])


@pytest.mark.parametrize("name", ["sgn_queue_pictures", "sgn_requests_in_flight"])
def test_when_all_is_answered_nothing_waits(client, name):
    client.post("/classify", files={"image": b"no picture"})
    client.post("/classify_batch", files=[("images", RED), ("images", b"")])
    assert scrape(client)[name, ()] == (1 if name == "sgn_requests_in_flight" else 0), "the scrape itself"
