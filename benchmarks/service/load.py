"""Put a server under load: so many connections, each with one request after the other, as fast as they are answered.

It writes prepared bytes to sockets and reads just enough of the answers. So it takes little of the time that it
measures on a machine that it shares with the server. Run it as a process of its own: `python -m
benchmarks.service.load`.
"""

import asyncio
import base64
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command_line import command_parser
from sgn_serve.http.access_log import ASK_TIMING

HOST = "127.0.0.1"
MOST_PAUSE_SECONDS = 1.0


@dataclass
class Record:
    """The answers to a load.

    Attributes:
        seconds: The latency of each answer, by HTTP status.
        stages_ms: Times in Server-Timing of each answer of status 200 that had one, by stage.
    """

    seconds: dict[int, list[float]] = field(default_factory=dict)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, status: int, seconds: float, timing: bytes = b"") -> None:
        """Add an answer, with the value of its Server-Timing header, empty for none."""
        self.seconds.setdefault(status, []).append(seconds)
        if timing and status == 200:
            for part in timing.decode("ascii").split(","):
                stage, milliseconds = part.strip().split(";dur=")
                self.stages_ms.setdefault(stage, []).append(float(milliseconds))

    def ledger_us(self) -> dict[str, int]:
        """Return the median microseconds of each stage, of the whole in the server, and of what the client waited.

        A stage counts as 0 in the answers that did not have it, so that the medians belong to the same requests.
        """
        answers = len(self.seconds.get(200, []))
        medians = {
            stage: round(1000 * statistics.median([*values, *[0.0] * (answers - len(values))]))
            for stage, values in self.stages_ms.items()
        }
        return {**medians, "client": round(1e6 * statistics.median(self.seconds[200]))} if medians else {}

    def summary(self, duration: float) -> dict[str, Any]:
        """Return throughput, latencies in milliseconds and the number of answers by status.

        requests_per_second, p50_ms and p99_ms count answers of status 200 alone, refused_p99_ms all the others.

        Args:
            duration: How many seconds were measured.
        """
        answered = np.array(self.seconds.get(200, []))
        refused = np.concatenate([np.zeros(0)] + [np.array(s) for status, s in self.seconds.items() if status != 200])
        return {
            "requests_per_second": round(len(answered) / duration, 1),
            "p50_ms": _percentile_ms(answered, 50),
            "p99_ms": _percentile_ms(answered, 99),
            "statuses": dict(Counter({str(status): len(s) for status, s in sorted(self.seconds.items())})),
            "refused_p99_ms": _percentile_ms(refused, 99),
        }


def multipart_request(picture: bytes, fields: dict[str, str], *headers: str) -> bytes:
    """Return the bytes of an HTTP request, POST /classify, with the picture as a form's file.

    Args:
        picture: The file's content.
        fields: The form's other fields.
        headers: Further headers, each as "Name: value".
    """
    parts = [f'--edge\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    head = (
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    body = b"".join(parts) + head + picture + b"\r\n--edge--\r\n"
    return _post("multipart/form-data; boundary=edge", body, *headers)


def json_request(picture: bytes) -> bytes:
    """Return the bytes of an HTTP request, POST /classify, with the picture as base64 in JSON."""
    return _post("application/json", json.dumps({"image": base64.b64encode(picture).decode()}).encode())


async def load(port: int, requests: Sequence[bytes], concurrency: int, seconds: float, warm_up: float = 1.0) -> Record:
    """Send the requests in turn over `concurrency` connections, and return what was measured.

    A connection waits for as long as a refusal's Retry-After says, but a second at most, as a good client does.

    Args:
        port: Where the server listens.
        requests: The bytes of HTTP requests.
        concurrency: The number of connections.
        seconds: How long to measure.
        warm_up: Seconds before that. Their answers do not count.
    """
    record = Record()
    begin = time.perf_counter() + warm_up
    end = begin + seconds

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            turn = number
            while time.perf_counter() < end:
                started = time.perf_counter()
                writer.write(requests[turn % len(requests)])
                status, pause, timing = await _read_answer(reader)
                finished = time.perf_counter()
                if started >= begin and finished <= end:
                    record.add(status, finished - started, timing)
                turn += concurrency
                if pause:
                    await asyncio.sleep(min(pause, MOST_PAUSE_SECONDS))
        finally:
            writer.close()

    await asyncio.gather(*(connection(number) for number in range(concurrency)))
    return record


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, float, bytes]:
    """Return the status, Retry-After and Server-Timing of one answer. Its body is read and dropped."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"content-length:" in head:
        await reader.readexactly(int(_header(head, b"content-length:")))
    elif b"chunked" in head:
        while size := int((await reader.readuntil(b"\r\n")), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    return status, float(_header(head, b"retry-after:") or 0), _header(head, b"server-timing:")


def _header(head: bytes, name: bytes) -> bytes:
    return head.split(name, 1)[1].split(b"\r\n", 1)[0].strip() if name in head else b""


def _post(content_type: str, body: bytes, *headers: str) -> bytes:
    lines = [
        "POST /classify HTTP/1.1",
        f"Host: {HOST}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _percentile_ms(seconds: Any, percentile: float) -> float | None:
    return round(1000 * float(np.percentile(seconds, percentile)), 2) if len(seconds) else None


def main() -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("benchmarks.service.load", __doc__)
    parser.add_argument("pictures", type=Path, nargs="+", help="picture files, sent in turn")
    parser.add_argument("--port", type=int, required=True, help="where the server listens")
    parser.add_argument("--concurrency", type=int, required=True, help="connections")
    parser.add_argument("--seconds", type=float, required=True, help="how long to measure, after the warm-up")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before that")
    parser.add_argument("--base64", action="store_true", help="pictures in JSON instead of a form")
    parser.add_argument("--ledger", action="store_true", help="ask this service for the stages of every request, too")
    parser.add_argument("--fields", nargs="*", default=[], metavar="NAME=VALUE", help="the form's other fields")
    arguments = parser.parse_args()
    pictures = [path.read_bytes() for path in arguments.pictures]
    fields = dict(item.split("=", 1) for item in arguments.fields)
    headers = [f"{ASK_TIMING}: 1"] if arguments.ledger else []
    requests = [
        json_request(data) if arguments.base64 else multipart_request(data, fields, *headers) for data in pictures
    ]
    record = asyncio.run(load(arguments.port, requests, arguments.concurrency, arguments.seconds, arguments.warm_up))
    print(json.dumps(record.summary(arguments.seconds) | ({"ledger_us": record.ledger_us()} if headers else {})))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
