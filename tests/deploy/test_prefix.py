"""nginx serves the service under a path of its own: the pages, the OpenAPI document and the API work there."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from PIL import Image

from benchmarks.service.server import free_port
from tests.deploy.conftest import KEPT
from tests.sgn_serve.sample_pictures import encode
from tests.sgn_serve.server import Server

PATH = f"{os.environ['PATH']}:/usr/sbin"
RED = encode(Image.new("RGB", (8, 8), (200, 10, 10)))
PREFIXES = ("/taken/off", KEPT)
CONFIGURATION = """
daemon off;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/answers;
    fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused;
    scgi_temp_path {folder}/unused;
    server {{
        listen 127.0.0.1:{port};
        proxy_set_header Host $http_host;
        location /taken/off/ {{
            proxy_pass {url}/;
            proxy_set_header X-Forwarded-Prefix /taken/off;
        }}
        location /kept {{
            proxy_pass {url};
        }}
    }}
}}
"""

pytestmark = pytest.mark.skipif(
    shutil.which("nginx", path=PATH) is None, reason="nginx is not there: apt-get install nginx-light"
)


@pytest.fixture(scope="module")
def proxy(deployed_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return where nginx listens."""
    folder: Path = tmp_path_factory.mktemp("prefix")
    port = free_port()
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)  # nginx's workers are not root
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, port=port, url=deployed_server.url))
    command = ["nginx", "-e", str(folder / "errors.log"), "-p", str(folder), "-c", "nginx.conf"]
    process = subprocess.Popen(command, env={**os.environ, "PATH": PATH})
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/kept/livez")
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, (folder / "errors.log").read_text()
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_pages_and_everything_that_they_name_are_there(proxy: str, prefix: str) -> None:
    with httpx.Client(follow_redirects=True) as client:
        for path in ("", "/", "/docs", "/ui", "/ui/"):
            page = client.get(f"{proxy}{prefix}{path}")
            assert page.headers["content-type"].startswith("text/html"), path
            assert str(page.url) == f"{proxy}{prefix}{'/ui' if 'ui' in path else '/'}"
            named = re.findall(r"(?:src|href)=\"([^#\":]+)\"", page.text)
            assert len(named) > 4
            for reference in named:
                assert client.get(urljoin(str(page.url), reference)).is_success, reference


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_openapi_document_leads_to_the_api(proxy: str, prefix: str) -> None:
    document = httpx.get(f"{proxy}{prefix}/docs.json").json()
    (server,) = document["servers"]
    assert server["url"] == prefix
    base = urljoin(proxy, server["url"])
    own = {"origin": proxy, "sec-fetch-site": "same-origin"}
    assert httpx.post(f"{base}/classify", files={"image": RED}, headers=own).json()["label"] == "red"
    for path in ("/model", "/readyz", "/v2/health/ready", "/metrics"):
        assert path in document["paths"]
        assert httpx.get(base + path).is_success, path
    assert httpx.get(f"{base}/nothing").json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_public_name_works_through_a_trusted_proxy(proxy: str, prefix: str) -> None:
    own = {"host": "pictures.example.org", "origin": "https://pictures.example.org", "user-agent": "Mozilla/5.0"}
    own["sec-fetch-site"] = "same-origin"  # browsers say so over TLS; not needed if Host is passed on
    assert httpx.get(f"{proxy}{prefix}/ui", headers=own).status_code == 200
    answer = httpx.post(f"{proxy}{prefix}/classify", files={"image": RED}, headers=own)
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] == "red"
