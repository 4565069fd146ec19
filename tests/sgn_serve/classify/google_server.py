"""Google's emulated object store, in a process of its own. It has one bucket, which holds the files of a folder.

A client may list and read its objects, and not ask about the bucket: so the role "Storage Object Viewer" has it.
"""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage
from pyarrow import fs

from tests.sgn_serve.classify.object_server import BUCKET, DENIED


class _Handler(RequestHandler):
    def do_GET(self) -> None:  # noqa: N802 -- http.server's name
        if self.path == f"/storage/v1/b/{BUCKET}" or DENIED in self.path:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()


def _serve() -> None:
    logging.disable()  # it tells each object that is not there
    storage = Storage(use_memory_fs=True)
    create_bucket(BUCKET, storage)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, storage)) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


@contextmanager
def google_server(folder: Path) -> Iterator[dict[str, str]]:
    """Serve the files of a folder as the bucket BUCKET. The value is the environment that leads programs to it."""
    command = [sys.executable, "-m", "tests.sgn_serve.classify.google_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = f"127.0.0.1:{int(process.stdout.readline())}"
            store = fs.GcsFileSystem(anonymous=True, endpoint_override=address, scheme="http")
            for path in folder.rglob("*"):
                if path.is_file():
                    with store.open_output_stream(f"{BUCKET}/{path.relative_to(folder).as_posix()}") as stream:
                        stream.write(path.read_bytes())
            yield {"STORAGE_EMULATOR_HOST": f"http://{address}", "no_proxy": "127.0.0.1"}
        finally:
            process.kill()


if __name__ == "__main__":
    _serve()
