"""Everything at once, for a long time, and the memory stays what it was: `pytest -m slow tests/sgn_serve/test_soak.py`.

`--soak-seconds` says how long; ten minutes if not said.
"""

import itertools
import os
import random
import signal
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from PIL import Image

from tests.sgn_serve.sample_pictures import encode, noise
from tests.sgn_serve.server import running_server
from tests.sgn_serve.tiny_graph import save_tiny_graph

CLIENTS = 8
GROWTH_BYTES = 12e6
"""Memory may rise by this much between the second fifth and the last: less than one leaked picture in a hundred."""
EXPECTED = {200, 400, 404, 413, 415, 503}


def make_pictures():
    """Return small pictures of every format, and a JPEG of more than a megapixel."""
    small = [
        encode(Image.fromarray(noise(*size)), file_format)
        for size in ((32, 32), (8, 8), (150, 100))
        for file_format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
    ]
    return [*small, encode(Image.new("RGB", (1100, 1000), "red"), "JPEG")]


def requests(rng, pictures):
    """Requests of every kind, good and bad, without end: (path, keyword arguments)."""
    while True:
        picture = rng.choice(pictures)
        kind = rng.random()
        if kind < 0.6:
            yield "/classify", {"files": {"image": picture}, "data": {"self_gradient": rng.choice(("true", "false"))}}
        elif kind < 0.75:
            yield (
                "/classify_batch",
                {"files": [("images", rng.choice((picture, b"x"))) for _ in range(rng.randint(1, 6))]},
            )
        elif kind < 0.8:
            yield "/explain", {"files": {"image": picture}}
            yield "/preprocess", {"files": {"image": picture}}
        elif kind < 0.9:
            yield "/classify", {"files": {"image": picture[: rng.randrange(1, len(picture))]}}
        elif kind < 0.95:
            yield f"/nowhere/{rng.random()}", {"content": b"x"}
        else:
            yield "/classify", {"content": b"x" * rng.randrange(1000)}


def soak(url, pictures, seed, until):
    """Asks until then, with a new connection now and then, hanging up on some; counts the statuses."""
    rng = random.Random(seed)
    statuses: Counter[int | str] = Counter()
    asked = requests(rng, pictures)
    while time.monotonic() < until:
        with httpx.Client(base_url=url, timeout=60) as client:
            for path, options in itertools.islice(asked, rng.randint(1, 50)):
                try:
                    impatient = rng.random() < 0.02
                    statuses[client.post(path, **options, timeout=0.002 if impatient else 60).status_code] += 1
                except httpx.TimeoutException:
                    statuses["hung up"] += 1
                if time.monotonic() > until:
                    break
    return statuses


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path, request):
    seconds = request.config.getoption("soak_seconds")
    model = save_tiny_graph(tmp_path / "tiny.onnx", image_size=(32, 32))
    with running_server(tmp_path, SGN_MODEL=str(model)) as server, ThreadPoolExecutor(CLIENTS) as pool:
        (worker,) = psutil.Process(server.pid).children()
        pictures = make_pictures()
        started = time.monotonic()
        clients = [pool.submit(soak, server.url, pictures, seed, started + seconds) for seed in range(CLIENTS)]
        memory = []
        while time.monotonic() < started + seconds:
            time.sleep(seconds / 120)
            memory.append(worker.memory_info().rss)
            if len(memory) % 12 == 0:  # another model, ten times in all
                new = save_tiny_graph(model.with_suffix(".new"), image_size=(32, 32), checkpoint={"seed": len(memory)})
                os.replace(new, model)
                os.kill(server.pid, signal.SIGHUP)
        statuses: Counter[int | str] = sum((client.result() for client in clients), Counter())
        assert set(statuses) <= EXPECTED | {"hung up"}, statuses
        assert statuses[200] > seconds, f"too little happened to tell anything: {statuses}"
        assert worker.is_running(), "the same worker, from the beginning to the end"
        figures = httpx.get(f"{server.url}/metrics").text
        assert "sgn_queue_pictures 0.0" in figures
        assert 'sgn_reloads_total{outcome="refused"} 0.0' in figures
        assert "Traceback" not in server.log.read_text()
    fifth = len(memory) // 5
    before, after = statistics.median(memory[fifth : 2 * fifth]), statistics.median(memory[-fifth:])
    told = f"{before / 1e6:.1f} MB at first, {after / 1e6:.1f} MB in the end, {statuses}"
    print(told)
    assert after - before < GROWTH_BYTES, told
