"""Try the service with ONNX Runtime on the GPU, as deploy/kubernetes/gpu runs it, if it is installed."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from release.gpu.stage import Run, Skip, main
from release.gpu.supervise import ROOT

NEEDED = ("bentoml", "onnxruntime", "onnx", "pydantic", "starlette")
PROVIDERS = ("cuda", "cpu")
"""SGN_PROVIDERS: in a run, in a rehearsal. The "cuda,cpu" of deploy/kubernetes/gpu could fall back to the CPU."""
CUDA_PROVIDER = "CUDAExecutionProvider"
EXAMPLE = ROOT / "examples" / "airplane_00.png"
BOUNDARY = "self-gradient-boundary"
REQUESTS = 20
"""Requests that are timed."""
END_SECONDS = 4.0
"""Seconds kept for the server to end."""


def serve(run: Run) -> None:
    """Start the service, classify an example picture through its API, and record how long an answer takes.

    Raises:
        Skip: A package is not installed, or ONNX Runtime has no CUDA provider.
        RuntimeError: The server does not start.
        HTTPError: The server refuses the picture.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Skip(f"not installed: {', '.join(missing)}")
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    run.record(available_providers=providers)
    if not run.rehearse and CUDA_PROVIDER not in providers:
        raise Skip(f"the installed ONNX Runtime has no {CUDA_PROVIDER}: {', '.join(providers)}")
    home = run.work / "bentoml"
    home.mkdir()
    with server(home, PROVIDERS[run.rehearse]) as (url, process, log):
        wait_until_ready(url, process, log, run)
        answers = [classify(url) for _ in range(REQUESTS)]
    milliseconds = sorted(1000 * seconds for seconds, _ in answers)
    _, answer = answers[-1]
    run.record(
        f"SGN_PROVIDERS={PROVIDERS[run.rehearse]} answers in {milliseconds[len(milliseconds) // 2]:.1f} ms",
        providers=PROVIDERS[run.rehearse],
        median_ms=round(milliseconds[len(milliseconds) // 2], 2),
        answer=answer,
    )


@contextlib.contextmanager
def server(home: Path, providers: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]", Path]]:
    """Run `bentoml serve` on a free port until the block ends.

    Args:
        home: Folder for BentoML's files and the server's log.
        providers: Value of SGN_PROVIDERS.

    Yields:
        The server's URL, its process and its log file.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home / "server.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SGN_", "PROMETHEUS_"))}
    settings = {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "SGN_PROVIDERS": providers}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", "--port", str(port)],
            cwd=ROOT,
            env={**inherited, **settings, "SGN_DRAIN_SECONDS": "0.1"},
            stdout=output,
            stderr=output,
        )
    try:
        yield f"http://127.0.0.1:{port}", process, log
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path, run: Run) -> None:
    """Wait until the server is ready.

    Raises:
        RuntimeError: It has ended, or is not ready in time; the message has its last line.
    """
    while process.poll() is None and run.seconds_left() > END_SECONDS:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=2):  # URLError is an OSError
            return
        time.sleep(0.1)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    what = "is not ready in time" if process.poll() is None else f"ended with {process.returncode}"
    raise RuntimeError(f"the server {what}: {lines[-1] if lines else 'it printed nothing'}")


def classify(url: str) -> tuple[float, Any]:
    """Ask the server to classify the example picture.

    Returns:
        The seconds until the answer, and the answer's JSON.

    Raises:
        HTTPError: The server refuses the picture.
    """
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{EXAMPLE.name}"\r\n\r\n'
    form = head.encode() + EXAMPLE.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    request = urllib.request.Request(f"{url}/classify", form, {"Content-Type": content_type}, method="POST")
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=20) as answer:
        body = answer.read()
    return time.perf_counter() - began, json.loads(body)


if __name__ == "__main__":
    sys.exit(main(serve))
