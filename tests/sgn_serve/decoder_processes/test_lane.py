"""Test what a lane gives to which process, with processes that end when the test says so."""

import asyncio
from io import BytesIO
from typing import IO, Any

from sgn_serve.decoder_processes.contract import End, Kind, Limits, Result
from sgn_serve.decoder_processes.lane import Lane, Waiter
from sgn_serve.decoder_processes.processes import ProcessObserver
from sgn_serve.decoder_processes.turns import Class
from sgn_serve.process.confinement import Confinement

QUICK = Limits(100, 0.01, 0.3)
LONGER = Limits(1000, 0.06, 1.0)


class _Process:
    """A process that notes what it is given, and ends when it is told to."""

    confinement = Confinement(0, False, False)

    def __init__(self, lane: ProcessObserver):
        self._lane: Any = lane
        self.is_new = True
        self.end: End | None = None
        self.given: list[tuple[bytes, Limits]] = []
        self._answer: asyncio.Future[Result] | None = None

    async def decode(self, file: IO[bytes], limits: Limits, seconds: float) -> Result:
        assert seconds <= limits.seconds
        self.is_new = False
        self.given.append((file.read(), limits))
        self._answer = asyncio.get_running_loop().create_future()
        return await self._answer

    def kill(self, reason: End) -> None:
        self.end = reason

    async def finish(self, end: End | None = None) -> None:
        """Answer the picture, and let all that waits for it go on."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Result(None, end=end))
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
    lane, started = await _lane()
    return lane, started[0]


async def _lane(new_process: bool = False) -> tuple[Lane, list[_Process]]:
    """Return a lane of one process, and the list of all that are started."""
    server = _ForkServer()
    limits = {Class.QUICK: QUICK, Class.LONGER: LONGER}
    lane = Lane(server, Kind(False, 100, (8, 8)), 1, limits, new_process)  # type: ignore[arg-type]
    await lane.start()
    return lane, server.started


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


def test_what_lacks_memory_in_a_used_process_is_decoded_once_more_in_a_new_one() -> None:
    async def ask() -> None:
        lane, started = await _lane(new_process=True)
        new = await _ask(lane, "in a new process", Class.LONGER)
        await started[0].finish(End.MEMORY)
        assert (await new).end is End.MEMORY
        assert len(started) == 1, "it is final"
        for end in (None, End.TIME):
            other = await _ask(lane, "no want of memory", Class.LONGER)
            await started[0].finish(end)
            assert (await other).end is end
            assert len(started) == 1
        used = await _ask(lane, "in a used process", Class.LONGER)
        await started[0].finish(End.MEMORY)
        assert started[1].given == [(b"in a used process", LONGER)]
        await started[1].finish(End.MEMORY)
        assert (await used).end is End.MEMORY
        assert started[1].end is End.AGE, "it is for one picture"
        assert len(started) == 2
        crashed = await _ask(lane, "crashes", Class.LONGER)
        await started[0].finish(End.CRASH)
        await started[2].finish()
        assert (await crashed).end is None, "its decoder may have crashed for want of memory"

    asyncio.run(ask())
