import asyncio
import threading
import time
import zlib
from io import BytesIO

import pytest
from PIL import Image

from sgn_serve import images
from sgn_serve.decoding import Decoder
from tests.sgn_serve.pictures import encode, tiled

SIZE = (8, 8)


@pytest.fixture
def threads(monkeypatch):
    """The names of the threads in which pixels were decoded, in order."""
    names = []
    to_array = images.to_array

    def noted(*arguments):
        names.append(threading.current_thread().name)
        return to_array(*arguments)

    monkeypatch.setattr(images, "to_array", noted)
    return names


@pytest.mark.parametrize(
    ("file", "large"),
    [
        (encode(Image.new("L", (1000, 1000))), False),
        (encode(Image.new("L", (1000, 1001))), True),
        (tiled(16, 16, (1000, 1000), zlib.compress(bytes(1_000_000))), False),
        (tiled(16, 16, (1000, 1001), zlib.compress(bytes(1_001_000))), True),
    ],
)
def test_what_takes_much_memory_takes_turns(file, large, threads):
    decoder = Decoder(SIZE, max_pixels=2_000_000)
    assert asyncio.run(decoder.decode(BytesIO(file))).shape == (3, 8, 8)
    assert threads[0].startswith("decode-large") == large
    decoder.close()


def test_pictures_that_nobody_waits_for_any_more_are_not_decoded(threads):
    """So that what outlives its request is one picture a thread, and no queue of them."""
    entered, go_on = threading.Event(), threading.Event()

    class Held(BytesIO):
        def read(self, size=-1):
            entered.set()
            assert go_on.wait(10)
            return super().read(size)

    async def ask():
        decoder = Decoder(SIZE, max_pixels=1000, threads=1)
        file = encode(Image.new("L", (8, 8)))
        requests = [asyncio.create_task(decoder.decode(Held(file)))]
        assert await asyncio.to_thread(entered.wait, 10)
        requests += [asyncio.create_task(decoder.decode(BytesIO(file))) for _ in range(20)]
        await asyncio.sleep(0.01)
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        go_on.set()
        started = time.monotonic()
        assert (await decoder.decode(BytesIO(file))).shape == (3, 8, 8)
        assert time.monotonic() - started < 5
        decoder.close()

    asyncio.run(ask())
    assert len(threads) == 2, "the one that ran, and the one that is waited for"
