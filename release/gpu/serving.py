"""Try the service with ONNX Runtime on the GPU, as deploy/kubernetes/gpu runs it, if it is installed."""

import importlib.util
import json
import sys
import time
import urllib.request
from typing import Any

from benchmarks.command_line import ROOT
from benchmarks.service.server import (
    free_port,
    running,
    service_command,
    service_environment,
    wait_until_ready,
)
from release.gpu.stage import Run, Skip, main

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
        BenchmarkError: The server does not start.
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
    port, log = free_port(), home / "server.log"
    environment = service_environment(home, SGN_PROVIDERS=PROVIDERS[run.rehearse], SGN_DRAIN_SECONDS="0.1")
    with running(service_command(port), environment, log, END_SECONDS) as process:
        wait_until_ready(process, port, log, run.seconds_left() - END_SECONDS)
        answers = [classify(f"http://127.0.0.1:{port}") for _ in range(REQUESTS)]
    milliseconds = sorted(1000 * seconds for seconds, _ in answers)
    _, answer = answers[-1]
    run.record(
        f"SGN_PROVIDERS={PROVIDERS[run.rehearse]} answers in {milliseconds[len(milliseconds) // 2]:.1f} ms",
        providers=PROVIDERS[run.rehearse],
        median_ms=round(milliseconds[len(milliseconds) // 2], 2),
        answer=answer,
    )


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
