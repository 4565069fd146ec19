"""A real server under more requests than it can take."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import httpx
import pytest
from PIL import Image

from tests.sgn_serve.sample_pictures import encode, noise
from tests.sgn_serve.server import running_server

QUEUE = 16


@pytest.mark.thorough
def test_overload_is_refused_at_once_and_says_when_to_come_back(tmp_path):
    file = encode(Image.fromarray(noise(32, 32)))
    limits = {"SGN_MAX_QUEUE": str(QUEUE), "SGN_MAX_IMAGES": str(QUEUE), "SGN_MAX_BATCH": "1"}
    with running_server(tmp_path, **limits) as server, httpx.Client(base_url=server.url, timeout=60) as client:

        def ask(number):
            flag = "true" if number % 3 else "false"
            return client.post("/classify", files={"image": file}, data={"self_gradient": flag})

        ask(0)
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(ask, range(100)))
        counted = Counter(response.status_code for response in answers)
        assert set(counted) == {200, 503}, counted
        probabilities = {response.json()["probability"] for response in answers if response.is_success}
        assert len(probabilities) == 2, "one picture, block on and off"
        for response in answers:
            if response.status_code == 503:
                assert response.json()["error"]["code"] == "overloaded"
                assert int(response.headers["retry-after"]) >= 1
        assert ask(1).status_code == 200, "and afterwards all is as before"

        def ask_for_all_there_is_room_for(_):
            response = client.post("/classify_batch", files=[("images", file)] * QUEUE)
            return response.status_code, response.elapsed

        with ThreadPoolExecutor(4) as pool:
            waited = sorted(pool.map(ask_for_all_there_is_room_for, range(40)))
        accepted = [elapsed for status, elapsed in waited if status == 200]
        refused = [elapsed for status, elapsed in waited if status == 503]
        assert len(accepted) + len(refused) == len(waited)
        assert median(refused) < median(accepted) / 3, "nobody waits for a refusal"
        assert "Traceback" not in server.log.read_text()
