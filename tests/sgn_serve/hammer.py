"""Run clients that send requests to a server all the time and record the answers."""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from PIL import Image

from tests.sgn_serve.sample_pictures import encode

PAUSE_SECONDS = 0.03
"""Each client waits that long after an answer: without a pause they would take the cores from what is tested."""
RED = encode(Image.new("RGB", (8, 8), (200, 10, 10)))


@dataclass(frozen=True)
class Answer:
    """An answer. asked, answered: time.monotonic(); status: HTTP status, or an exception's name; label: the class."""

    asked: float
    answered: float
    status: int | str
    label: str | None


class Hammer:
    """Run that many clients at once until the `with` block ends. Each keeps its connection."""

    def __init__(self, url: str, clients: int = 6, **headers: str):
        self._url = url
        self._headers = headers
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self.answers: list[Answer] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def statuses(self) -> Counter[int | str]:
        return Counter(answer.status for answer in self.answers)

    def wait_for(self, answers: int, seconds: float = 60.0) -> None:
        """Wait until that many more requests have been answered with 200."""
        wanted = self.statuses()[200] + answers
        deadline = time.monotonic() + seconds
        while self.statuses()[200] < wanted:
            assert time.monotonic() < deadline, f"no {answers} answers in {seconds} s: {self.statuses()}"
            time.sleep(0.02)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60, headers=self._headers) as client:
            while not self._ended.is_set():
                asked = time.monotonic()
                label = None
                try:
                    response = client.post("/classify", files={"image": RED}, data={"top_k": "1"})
                    status: int | str = response.status_code
                    label = response.json()["label"] if response.is_success else None
                except httpx.TransportError as error:
                    status = type(error).__name__
                self.answers.append(Answer(asked, time.monotonic(), status, label))
                time.sleep(PAUSE_SECONDS)
