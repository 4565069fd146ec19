"""Test what a lane gives to which process, with processes that end when the test says so."""

import asyncio
from io import BytesIO
from typing import IO, Any

from sgn_serve.decoders.contract import Kind, Limits, Result
from sgn_serve.decoders.lane import Lane, Waiter
from sgn_serve.decoders.processes import ProcessObserver
from sgn_serve.decoders.turns import Class
from sgn_serve.process.confinement import Confinement

QUICK = Limits(100, 0.01, 0.3)
LONGER = Limits(1000, 0.06, 1.0)


class _Process:
    """A process that notes what it is given, and ends when it is told to."""

    confinement = Confinement(0, False, False)

    def __init__(self, lane: ProcessObserver):
        self._lane: Any = lane
        self.given: list[tuple[bytes, Limits]] = []
        self._answer: asyncio.Future[Result] | None = None

    async def decode(self, file: IO[bytes], limits: Limits, seconds: float) -> Result:
        assert seconds <= limits.seconds
        self.given.append((file.read(), limits))
        self._answer = asyncio.get_running_loop().create_future()
        return await self._answer

    async def finish(self) -> None:
        """Answer the picture, and let all that waits for it go on."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Result(None))
        self._lane.free(self)
        for _ in range(10):
            await asyncio.sleep(0)


class _ForkServer:
    """Starts processes that are free at once."""

    def __init__(self) -> None:
        self.started: list[_Process] = []

    def fork(self, kind: Kind, lane: ProcessObserver) -> _Process:
        self.started.append(_Process(lane))
        asyncio.get_running_loop().call_soon(self.started[-1]._lane.free, self.started[-1])
        return self.started[-1]


async def _one_process() -> tuple[Lane, _Process]:
    server = _ForkServer()
    limits = {Class.QUICK: QUICK, Class.LONGER: LONGER}
    lane = Lane(server, Kind(False, 100, (8, 8)), 1, limits)  # type: ignore[arg-type]
    await lane.start()
    return lane, server.started[0]


async def _ask(lane: Lane, name: str, kind: Class, request: str = "") -> asyncio.Task[Result]:
    """Begin to wait for a picture."""
    deadline = asyncio.get_running_loop().time() + 1000
    task = asyncio.create_task(lane.decode(BytesIO(name.encode()), Waiter(request or name, deadline, kind)))
    await asyncio.sleep(0)
    return task


def test_a_free_process_takes_a_picture_with_the_limits_of_small_ones() -> None:
    async def ask() -> None:
        lane, process = await _one_process()
        at_once = lane.decode_now(BytesIO(b"first"))
        assert at_once is not None
        first = asyncio.ensure_future(at_once)
        await asyncio.sleep(0)
        assert lane.decode_now(BytesIO(b"second")) is None
        second = await _ask(lane, "second", Class.QUICK)
        await process.finish()
        await process.finish()
        await asyncio.gather(first, second)
        assert process.given == [(b"first", LONGER), (b"second", QUICK)]

    asyncio.run(ask())


def test_who_comes_last_and_was_not_tried_is_next() -> None:
    async def ask() -> None:
        lane, process = await _one_process()
        tasks = [await _ask(lane, name, Class.LONGER, "one request") for name in ("a", "b", "c")]
        tasks.append(await _ask(lane, "other", Class.LONGER))
        tasks.append(await _ask(lane, "new", Class.QUICK))
        for _ in tasks:
            await process.finish()
        await asyncio.gather(*tasks)
        assert [name.decode() for name, _ in process.given] == ["a", "new", "b", "other", "c"]

    asyncio.run(ask())


def test_who_goes_away_leaves_the_process_and_the_time_to_others() -> None:
    async def ask() -> None:
        lane, process = await _one_process()
        running = await _ask(lane, "running", Class.LONGER)
        gone = await _ask(lane, "gone", Class.LONGER)
        left = [await _ask(lane, name, Class.LONGER) for name in ("b", "c")]
        new = await _ask(lane, "new", Class.QUICK)
        gone.cancel()
        for _ in range(4):
            await process.finish()
        await asyncio.gather(running, new, *left)
        assert gone.cancelled()
        assert [name.decode() for name, _ in process.given] == ["running", "new", "b", "c"]

    asyncio.run(ask())
