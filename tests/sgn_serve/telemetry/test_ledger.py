"""Test the ledger of requests: on every way to the network, in Server-Timing, in the log line and in the metrics."""

import asyncio
import base64
import json
import logging
import re
import time
from contextlib import suppress

import pytest
from prometheus_client import REGISTRY

from sgn_serve.telemetry import ledger, metrics
from sgn_serve.telemetry.ledger import STAGES, Ledger
from tests.sgn_serve.asking import RED
from tests.sgn_serve.forms import PACKED

ASK = {"x-server-timing": "1"}
FULL = list(STAGES)
TENSORS = ["receive", "parse", "queue", "infer", "serialise"]
TENSOR = {"name": "image", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.5] * 192}


def encoded(picture=RED):
    return base64.b64encode(picture).decode()


WAYS = {
    "a form": ("/classify", {"files": {"image": RED}}, FULL),
    "the picture itself": ("/classify", {"content": RED, "headers": {"content-type": "image/png"}}, FULL),
    "base64 in JSON": ("/classify", {"json": {"image": encoded()}}, FULL),
    "a batch": ("/classify_batch", {"files": [("images", RED)] * 5}, FULL),
    "a batch in JSON": ("/classify_batch", {"json": {"images": [encoded()] * 3}}, FULL),
    "a batch with refusals": ("/classify_batch", {"files": [("images", RED), ("images", b"no picture")]}, None),
    "the block off": ("/classify", {"files": {"image": RED}, "data": {"self_gradient": "false"}}, FULL),
    "a heat map": ("/explain", {"files": {"image": RED}}, FULL),
    "a picture as it is seen": ("/preprocess", {"files": {"image": RED}}, ["receive", "parse", "decode", "serialise"]),
    "tensors": ("/v2/models/self-gradient-network/infer", {"json": {"inputs": [TENSOR]}}, TENSORS),
    "the other name of the model": (
        "/v2/models/self-gradient-network-image/infer",
        {"json": {"inputs": [TENSOR]}},
        TENSORS,
    ),
}
REFUSED = {
    "no body": ("/classify", {}, ["receive", "parse"]),
    "no picture": ("/classify", {"files": {"image": b"no picture"}}, ["receive", "parse", "decode"]),
    "a bad option": ("/classify", {"files": {"image": RED}, "data": {"top_k": "0"}}, ["receive", "parse"]),
    "a large body": ("/classify", {"content": b"x" * 200_000}, []),
    "bad JSON": ("/classify", {"content": b"{", "headers": {"content-type": "application/json"}}, ["receive", "parse"]),
    "damaged gzip": ("/classify", {"content": b"no gzip", "headers": PACKED}, ["receive", "parse"]),
    "bad tensors": ("/v2/models/self-gradient-network/infer", {"json": {"inputs": []}}, ["receive", "parse"]),
    "no such model": ("/v2/models/other/infer", {"json": {}}, []),
    "no such path": ("/nowhere", {}, []),
}


def timing(response):
    """Return the names and the microseconds of a Server-Timing header, in order."""
    parts = response.headers["server-timing"].split(", ")
    found = [re.fullmatch(r"([a-z]+);dur=([0-9]+\.[0-9]{3})", part) for part in parts]
    assert all(found), parts
    return [(match[1], round(1000 * float(match[2]))) for match in found if match]


def ask(client, path, options):
    headers = {**options.get("headers", {}), **ASK}
    return client.post(path, **{**options, "headers": headers})


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_the_network_has_its_stages_and_they_are_at_most_the_whole(app_client, way):
    path, options, expected = WAYS[way]
    started = time.perf_counter()
    response = ask(app_client, path, options)
    waited = 1e6 * (time.perf_counter() - started)
    assert response.status_code == 200, response.text
    *stages, (last, total) = timing(response)
    names = [name for name, _ in stages]
    assert last == "total"
    assert names == [name for name in STAGES if name in names], "in the order of the way"
    if expected is not None:
        assert names == expected
    assert sum(microseconds for _, microseconds in stages) <= total <= waited
    if "infer" in names:
        assert dict(stages)["infer"] > 0


@pytest.mark.parametrize("way", REFUSED)
def test_a_refused_request_has_the_stages_that_it_came_to(app_client, way):
    path, options, expected = REFUSED[way]
    response = ask(app_client, path, options)
    assert response.status_code >= 400
    *stages, (last, total) = timing(response)
    assert [name for name, _ in stages] == expected
    assert last == "total"
    assert sum(microseconds for _, microseconds in stages) <= total


@pytest.mark.parametrize("headers", [{}, {"x-server-timing": "0"}, {"x-server-timing": "yes"}])
def test_who_does_not_ask_is_not_told(app_client, headers):
    assert "server-timing" not in app_client.post("/classify", files={"image": RED}, headers=headers).headers


@pytest.mark.parametrize(("way", "ways"), [(way, WAYS) for way in WAYS] + [(way, REFUSED) for way in REFUSED])
def test_the_log_line_and_the_metrics_have_the_same_stages(app_client, caplog, way, ways):
    path, options, expected = ways[way]

    def counts():
        return {
            stage: REGISTRY.get_sample_value("sgn_request_stage_seconds_count", {"stage": stage}) for stage in STAGES
        }

    before = counts()
    with caplog.at_level(logging.INFO, "bentoml.sgn_serve.access"):
        response = ask(app_client, path, options)
    after = counts()
    (line,) = [vars(record) for record in caplog.records if record.message == "request"]
    logged = {stage: line[f"{stage}_us"] for stage in STAGES if f"{stage}_us" in line}
    *told, _ = timing(response)
    assert logged == dict(told)
    assert {stage: after[stage] - before[stage] for stage in STAGES} == {stage: stage in logged for stage in STAGES}
    assert sum(logged.values()) <= 1000 * line["duration_ms"] + 10, "which is rounded to 10 us"
    if expected is not None:
        assert list(logged) == expected


def test_every_stage_is_there_from_the_start():
    assert list(metrics.STAGE_SECONDS) == list(STAGES)


def test_stages_of_pictures_beside_each_other_are_those_of_the_last_one(monkeypatch):
    """The first picture is decoded in 3 ns and waits for 5; the second is decoded in 7 and refused."""
    now = [100]
    monkeypatch.setattr(ledger, "clock", lambda: now[0])
    account = Ledger(started=100)
    now[0] = 103
    account.note_decoded(3)
    now[0] = 107
    account.note_decoded(7)
    now[0] = 109
    account.note_inferred(3, 1e-9, 5e-9, 2)
    assert account.stages() == [("decode", 3), ("queue", 1), ("infer", 5)]
    now[0] = 120
    account.note_decoded(20)
    now[0] = 125
    account.note_answer(refused=False)
    assert account.stages() == [("decode", 20), ("serialise", 5)]
    assert (account.total, account.batch_size) == (25, 2)


def test_what_is_received_while_parsing_is_not_parsing(monkeypatch):
    now = [0]
    monkeypatch.setattr(ledger, "clock", lambda: now[0])
    account = Ledger(started=0)
    with suppress(ValueError), account.parsing():
        now[0] = 10
        account.note_received(4)
        now[0] = 11
        raise ValueError
    with account.parsing():
        now[0] = 13
    assert account.stages() == [("receive", 6), ("parse", 7)]
    assert account.server_timing() == "receive;dur=0.000, parse;dur=0.000"


def test_a_body_in_many_pieces_is_received_once(app_client):
    def pieces():
        body = json.dumps({"inputs": [TENSOR]}).encode()
        for begin in range(0, len(body), 200):
            yield body[begin : begin + 200]

    response = app_client.post("/v2/models/self-gradient-network/infer", content=pieces(), headers=ASK)
    assert response.status_code == 200
    assert [name for name, _ in timing(response)] == [*TENSORS, "total"]


def test_a_request_outside_has_a_ledger_that_nobody_reads():
    async def note():
        ledger.current_ledger().note_decoded(5)
        return ledger.current_ledger().decode

    assert asyncio.run(note()) is None
