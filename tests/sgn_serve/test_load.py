"""A real server under more requests than it can take."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
from PIL import Image

from tests.sgn_serve.pictures import encode, noise
from tests.sgn_serve.server import running_server


def test_overload_is_refused_at_once_and_says_when_to_come_back(tmp_path):
    file = encode(Image.fromarray(noise(32, 32)))
    limits = {"SGN_MAX_QUEUE": "4", "SGN_MAX_IMAGES": "4", "SGN_MAX_BATCH": "1"}
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
        assert "Traceback" not in server.log.read_text()
