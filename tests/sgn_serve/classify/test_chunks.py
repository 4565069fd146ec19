"""The step from inputs to rows can be sent to another process, and limits what is in memory."""

import asyncio
import os
import pickle
import signal
from io import StringIO

import pytest
from PIL import Image

from sgn_serve.classify.cage import Cage
from sgn_serve.classify.chunks import ChunkClassifier
from sgn_serve.classify.items import Item, item_of_file
from sgn_serve.classify.progress import Progress
from sgn_serve.classify.window import Window
from sgn_serve.settings import Settings
from tests.sgn_serve.sample_pictures import encode, noise


def test_a_pickled_copy_gives_the_same_rows(tiny, tmp_path):
    content = encode(Image.fromarray(noise(8, 8, 3)))
    (tmp_path / "a.png").write_bytes(content)
    items = [item_of_file(tmp_path / "a.png"), Item("in memory", content=content), Item("none", content=b"")]
    with ChunkClassifier(Settings(model_path=tiny, decoders=1, threads=1, max_batch=1)) as chunks:
        first, second = chunks.submit(items), chunks.submit(items[::-1])
        assert first.result() == second.result()[::-1]
        assert chunks.answered == 6
        copy = pickle.loads(pickle.dumps(chunks))
    copied = copy(pickle.loads(pickle.dumps(items)))
    copy.close()
    assert copied == first.result()
    assert [row.error_code for row in copied] == [None, None, "empty_file"]
    assert copied[0]._replace(path="") == copied[1]._replace(path="")


def test_small_files_go_together_whatever_their_size(tiny, tmp_path, monkeypatch):
    messages, alone = [], []
    together = Cage._decode_together

    async def counted(self, files):
        messages.append(len(files))
        return await together(self, files)

    monkeypatch.setattr(Cage, "_decode_together", counted)
    monkeypatch.setattr(Cage, "_decode_alone", lambda self, file: alone.append(file))
    contents = [encode(Image.fromarray(noise(120, side, side))) for side in (60, 110, 300, 360)]
    assert len(contents[-1]) > 120_000
    items = [Item(str(number), content=contents[number % 4]) for number in range(40)]
    with ChunkClassifier(Settings(model_path=tiny, decoders=1, threads=1)) as chunks:
        assert [row.error_code for row in chunks(items)] == [None] * 40
    assert sum(messages) == 40
    assert not alone


def test_a_window_gives_room_in_order_and_takes_more_than_itself_when_it_is_empty():
    async def run() -> list[str]:
        window, order = Window(4, 100), []

        async def take(name: str, pictures: int, file_bytes: int) -> None:
            await window.take(pictures, file_bytes)
            order.append(name)

        await take("first", 3, 50)
        tasks = [asyncio.create_task(take("huge", 1, 500)), asyncio.create_task(take("small", 1, 1))]
        await asyncio.sleep(0)
        assert order == ["first"]
        window.give(0, 50)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["first", "huge"]
        window.give(1, 500)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == ["first", "huge", "small"]


def test_progress_tells_the_speed_of_the_last_minute_and_the_time_left():
    now = 0.0
    done = 0
    shown = StringIO()
    bar = Progress(shown, lambda: now)
    assert bar.line() == "starting [00:00]"
    bar.show("classifying", lambda: done, 1000, 100)
    assert bar.line() == "classifying  10 % |##..................| 100/1,000 [00:00<?, 0 pictures/s]"
    now, done = 10.0, 100
    assert bar.line() == "classifying  20 % |####................| 200/1,000 [00:10<01:20, 10 pictures/s]"
    now = 70.0
    bar.line()
    now, done = 130.0, 400
    assert bar.line() == "classifying  50 % |##########..........| 500/1,000 [02:10<01:40, 5 pictures/s]"
    bar.note("a note")
    assert shown.getvalue() == "a note\n"


def test_ctrl_c_while_the_decoders_start_ends_them(tiny, monkeypatch):
    """Else the loop closed with a task in it, which told so in a traceback."""
    ended = []

    async def start(self):
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("start")

    async def close(self):
        ended.append("close")

    monkeypatch.setattr(Cage, "start", start)
    monkeypatch.setattr(Cage, "close", close)
    with pytest.raises(KeyboardInterrupt):
        ChunkClassifier(Settings(model_path=tiny, decoders=1, threads=1)).start()
    assert ended == ["start", "close"]
