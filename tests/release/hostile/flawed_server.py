"""A server with one fault, to be found: `python -m tests.release.hostile.flawed_server PORT FAULT`."""

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from release.hostile.seeds import seeds

ORDINARY = seeds("PNG")[0]
MEGABYTES = 400


class Flawed(BaseHTTPRequestHandler):
    """Answers every picture, or one in eight with the fault. An ordinary one is never among them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        hit = hashlib.sha256(body).digest()[0] < 32 and ORDINARY not in body
        fault = sys.argv[2] if hit else "none"
        status = 200
        answer: dict[str, object] = {"label": "ship"}
        if fault == "status":
            status, answer = 500, {"error": {"code": "internal", "message": "planted"}}
        if fault == "memory":
            kept = b"x" * (MEGABYTES * 1_000_000)
            time.sleep(0.1)
            del kept
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Takes many connections at once."""

    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Flawed).serve_forever()
