"""A server that reads and lists the files of a folder as S3 does. It has one bucket."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
DENIED = "denied.png"
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def _handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            address = urlsplit(self.path)
            bucket, _, key = unquote(address.path).lstrip("/").partition("/")
            query = parse_qs(address.query)
            if bucket != BUCKET:
                self._send(404)
            elif not key:
                self._send(200, self._listing(query) if "list-type" in query else b"")
            elif key.endswith(DENIED):
                self._send(403)
            elif not (folder / key).is_file():
                self._send(404)
            else:
                self._send_range((folder / key).read_bytes())

        def _listing(self, query: dict[str, list[str]]) -> bytes:
            prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
            keys = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            keys = sorted(key for key in keys if key.startswith(prefix))
            folders: list[str] = []
            if delimiter:
                below = {key: key[len(prefix) :].partition(delimiter) for key in keys}
                folders = sorted({prefix + name + delimiter for name, found, _ in below.values() if found})
                keys = [key for key, (_, found, _) in below.items() if not found]
            contents = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{(folder / key).stat().st_size}</Size>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                for key in keys
            )
            common = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders)
            return (
                '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
                f"<KeyCount>{len(keys) + len(folders)}</KeyCount>{contents}{common}</ListBucketResult>"
            ).encode()

        def _send_range(self, content: bytes) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                self._send(200, content)
                return
            begin, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            self._send(206, content[begin : end + 1], f"bytes {begin}-{end}/{len(content)}")

        def _send(self, status: int, content: bytes = b"", range_of: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Last-Modified", _DATE)
            self.send_header("ETag", '"0"')
            if range_of:
                self.send_header("Content-Range", range_of)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


@contextmanager
def object_server(folder: Path) -> Iterator[dict[str, str]]:
    """Serve the files of a folder as the bucket BUCKET. The value is the environment that leads programs to it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
                "AWS_ACCESS_KEY_ID": "nobody",
                "AWS_SECRET_ACCESS_KEY": "nothing",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        finally:
            server.shutdown()
            thread.join()
