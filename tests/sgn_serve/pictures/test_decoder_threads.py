import asyncio
import threading
import time
import zlib
from io import BytesIO

import pytest
from PIL import Image

from sgn_serve.pictures import decoding
from sgn_serve.pictures.decoder_threads import Decoder
from sgn_serve.pictures.errors import TooManyWaiting
from sgn_serve.pictures.large_pictures import MAX_WAITING
from tests.sgn_serve.sample_pictures import encode, tiled

SIZE = (8, 8)
SMALL = encode(Image.new("L", (8, 8)))
LARGE = encode(Image.new("L", (1000, 1001)))


@pytest.fixture
def threads(monkeypatch):
    """Record the names of the threads in which pixels are decoded, in order."""
    names = []
    to_array = decoding.to_array

    def noted(*arguments):
        names.append(threading.current_thread().name)
        return to_array(*arguments)

    monkeypatch.setattr(decoding, "to_array", noted)
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
    assert asyncio.run(decoder.decode(BytesIO(file), None)).shape == (3, 8, 8)
    assert threads[0].startswith("decode-large") == large
    decoder.close()


def test_pictures_that_nobody_waits_for_any_more_are_not_decoded(threads):
    """At most one picture a thread outlives its request, never a queue of them."""
    entered, go_on = threading.Event(), threading.Event()

    class Held(BytesIO):
        def read(self, size=-1):
            entered.set()
            assert go_on.wait(10)
            return super().read(size)

    async def ask():
        decoder = Decoder(SIZE, max_pixels=1000, threads=1)
        file = encode(Image.new("L", (8, 8)))
        requests = [asyncio.create_task(decoder.decode(Held(file), None))]
        assert await asyncio.to_thread(entered.wait, 10)
        requests += [asyncio.create_task(decoder.decode(BytesIO(file), None)) for _ in range(20)]
        await asyncio.sleep(0.01)
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        go_on.set()
        started = time.monotonic()
        assert (await decoder.decode(BytesIO(file), None)).shape == (3, 8, 8)
        assert time.monotonic() - started < 5
        decoder.close()

    asyncio.run(ask())
    assert len(threads) == 2, "the one that ran, and the one that is waited for"


@pytest.fixture
def go_on(monkeypatch):
    """Hold large pictures back until this event is set."""
    event = threading.Event()
    to_array = decoding.to_array

    def held(*arguments):
        if threading.current_thread().name.startswith("decode-large"):
            assert event.wait(10)
        return to_array(*arguments)

    monkeypatch.setattr(decoding, "to_array", held)
    return event


async def asked(decoder, *requests):
    """Return tasks that decode a large picture each; by now each is refused or waits for the thread."""
    tasks = [asyncio.create_task(decoder.decode(BytesIO(LARGE), request)) for request in requests]
    await decoder.decode(BytesIO(SMALL), None)  # one thread, which has read the headers before it
    return tasks


def test_few_large_pictures_wait_and_small_ones_never_for_them(go_on):
    async def ask():
        decoder = Decoder(SIZE, max_pixels=2_000_000, threads=1)
        waiting = await asked(decoder, *range(MAX_WAITING))
        (refused,) = await asked(decoder, "another")
        with pytest.raises(TooManyWaiting, match="too many large pictures are waiting") as refusal:
            await asyncio.wait_for(refused, 5)
        assert refusal.value.retry_after == MAX_WAITING, "a second each, as long as none was measured"
        waiting.pop().cancel()
        waiting += await asked(decoder, "another")
        go_on.set()
        assert {pixels.shape for pixels in await asyncio.gather(*waiting)} == {(3, 8, 8)}
        many = await asked(decoder, *range(MAX_WAITING))
        await asyncio.gather(*many)
        decoder.close()

    asyncio.run(ask())


def test_the_large_pictures_of_one_request_wait_for_each_other_but_those_of_few_requests(go_on):
    async def ask():
        decoder = Decoder(SIZE, max_pixels=2_000_000, threads=1)
        waiting = await asked(decoder, *["one"] * 16)
        for other in range(2):
            (refused,) = await asked(decoder, other)
            with pytest.raises(TooManyWaiting):
                await asyncio.wait_for(refused, 5)
        go_on.set()
        assert len(await asyncio.gather(*waiting)) == 16
        decoder.close()

    asyncio.run(ask())


def test_how_soon_large_pictures_are_decoded_is_learnt(go_on):
    async def ask():
        decoder = Decoder(SIZE, max_pixels=2_000_000, threads=1)
        go_on.set()
        for _ in range(12):
            await decoder.decode(BytesIO(LARGE), None)
        go_on.clear()
        waiting = await asked(decoder, *["one"] * 8)
        (refused,) = await asked(decoder, "another")
        with pytest.raises(TooManyWaiting) as refusal:
            await refused
        assert refusal.value.retry_after is not None
        assert refusal.value.retry_after < 8
        go_on.set()
        await asyncio.gather(*waiting)
        decoder.close()

    asyncio.run(ask())
