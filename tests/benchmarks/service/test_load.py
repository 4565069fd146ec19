"""The load generator against small servers whose answers are known."""

import asyncio

from benchmarks.service.load import Record, load, multipart_request

REQUEST = multipart_request(b"picture", {"top_k": "1"})


async def measured(answer, concurrency, seconds):
    """The record of a load on a server that says `answer(number of the request)`; and the requests that came."""
    requests = []

    async def serve(reader, writer):
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                writer.close()
                return
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            requests.append(head + await reader.readexactly(length))
            number = len(requests)
            await asyncio.sleep(0.01)
            writer.write(answer(number))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        record = await load(port, [REQUEST], concurrency, seconds, warm_up=0.1)
        await asyncio.sleep(0.05)  # the connections end
        return record, requests


def test_every_request_is_whole_and_every_answer_counted():
    def answer(number):
        if number % 4 == 0:
            return b"HTTP/1.1 503 x\r\nContent-Length: 2\r\nRetry-After: 0\r\n\r\n{}"
        if number % 4 == 1:
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"

    record, requests = asyncio.run(measured(answer, 4, 0.5))
    summary = record.summary(0.5)
    assert set(requests) == {REQUEST}
    assert set(summary["statuses"]) == {"200", "503"}
    assert 0 < summary["statuses"]["503"] < summary["statuses"]["200"] < len(requests)
    assert summary["requests_per_second"] == summary["statuses"]["200"] / 0.5
    assert 10 <= summary["p50_ms"] <= summary["p99_ms"]


def test_a_refused_client_comes_back_when_it_was_told_to():
    record, requests = asyncio.run(
        measured(lambda _: b"HTTP/1.1 503 x\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n", 3, 0.5)
    )
    assert len(requests) == 3, "one each, for they were told to wait for longer than the test"
    assert record.summary(0.5)["p50_ms"] is None


def test_percentiles():
    record = Record({200: [number / 1000 for number in range(1, 102)], 503: [0.5]})
    summary = record.summary(10)
    assert (summary["p50_ms"], summary["p99_ms"], summary["refused_p99_ms"]) == (51, 100, 500)
    assert summary["requests_per_second"] == 10.1


def test_what_server_timing_says_is_the_ledger():
    record = Record()
    record.add(200, 0.010, b"decode;dur=1.000, infer;dur=4.000, total;dur=6.000")
    record.add(200, 0.012, b"decode;dur=3.000, infer;dur=5.000, total;dur=9.000")
    record.add(200, 0.014, b"infer;dur=6.500, total;dur=8.000")
    record.add(503, 0.5, b"total;dur=400.000")
    assert record.ledger_us() == {"decode": 1000, "infer": 5000, "total": 8000, "client": 12000}
    assert Record({200: [0.1]}).ledger_us() == {}


def test_the_ledger_is_asked_for_in_a_header():
    asking = multipart_request(b"picture", {}, "x-server-timing: 1")
    head, _, body = asking.partition(b"\r\n\r\n")
    assert b"x-server-timing: 1" in head.split(b"\r\n")
    assert multipart_request(b"picture", {}).endswith(body)
