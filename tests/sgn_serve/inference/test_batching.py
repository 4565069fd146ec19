"""Test the batcher with a network that records its runs."""

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sgn_serve.common.refusals import Overloaded
from sgn_serve.inference.batch_contract import BatchLimits, Observer
from sgn_serve.inference.batching import Batcher
from sgn_serve.inference.classifier import Logits

LIMITS = BatchLimits(max_batch=32, batch_seconds=0.1, max_wait=0.004, max_queue=32)


class Network:
    """Returns the pictures' means as logits, plus 100 with the block on. runs: (pictures, block on) of each run."""

    def __init__(self, seconds_each=0.0, seconds=0.0):
        self.runs = []
        self.threads = set()
        self.seconds_each = seconds_each
        self.seconds = seconds

    def __call__(self, images, self_gradient, with_gradient):
        self.threads.add(threading.current_thread().name)
        self.runs.append((len(images), self_gradient))
        time.sleep(self.seconds + self.seconds_each * len(images))
        if images.max() > 1000:
            raise RuntimeError("out of memory")
        means = images.mean(axis=(2, 3))
        return Logits(means, means + 100 if self_gradient else None, images if with_gradient else None)


def picture(value, pictures=1):
    return np.full((pictures, 3, 2, 2), value, np.float32)


def with_batcher(network, work, observer=None, auto_margin=None, **limits):
    """Return `work(batcher)`, run with a batcher that is stopped afterwards and must have lost nothing."""

    async def run():
        batcher = Batcher(network, replace(LIMITS, **limits), observer, auto_margin)
        batcher.start()
        try:
            return await work(batcher)
        finally:
            await batcher.stop()
            assert batcher.pending == 0
            assert not batcher.alive

    return asyncio.run(run())


async def ask(batcher, value, self_gradient=True, pictures=1, with_gradient=False):
    with batcher.reserve(pictures) as place:
        return (await place.run(picture(value, pictures), self_gradient, with_gradient)).logits


def test_requests_at_the_same_time_share_a_batch_and_get_their_own_answers():
    network = Network(seconds=0.01)

    async def work(batcher):
        return await asyncio.gather(*(ask(batcher, value) for value in range(8)))

    answers = with_batcher(network, work)
    assert [answer.plain[0, 0] for answer in answers] == list(range(8))
    assert [answer.corrected[0, 0] for answer in answers] == list(range(100, 108))
    assert all(answer.plain.shape == (1, 3) for answer in answers)
    assert network.runs == [(8, True)]
    assert len(network.threads) == 1


def test_block_on_and_off_are_two_runs_of_one_batch():
    network = Network()

    async def work(batcher):
        return await asyncio.gather(*(ask(batcher, value, value % 2 == 0) for value in range(6)))

    answers = with_batcher(network, work)
    assert network.runs == [(3, False), (3, True)]
    assert [answer.plain[0, 0] for answer in answers] == list(range(6))
    assert [answer.corrected is None for answer in answers] == [False, True] * 3


def test_several_pictures_of_one_request_stay_together():
    network = Network()

    async def work(batcher):
        return await asyncio.gather(ask(batcher, 1, pictures=3, with_gradient=True), ask(batcher, 2))

    first, second = with_batcher(network, work)
    assert first.plain.shape == (3, 3)
    assert first.gradient.shape == (3, 3, 2, 2)
    assert second.plain[0, 0] == 2
    assert network.runs == [(4, True)]


def test_a_lone_request_does_not_wait_for_company():
    async def work(batcher):
        await ask(batcher, 0)
        started = time.perf_counter()
        await ask(batcher, 0)
        return time.perf_counter() - started

    assert with_batcher(Network(), work, max_wait=5) < 1


def test_a_request_waits_for_one_that_is_on_its_way_but_not_for_ever():
    network = Network()

    async def work(batcher):
        with batcher.reserve(2):  # being decoded, and found to be no pictures
            first = asyncio.create_task(ask(batcher, 0))
            await asyncio.sleep(0.05)
            assert network.runs == [], "it waits for company"
        await asyncio.wait_for(first, 2)
        with batcher.reserve(2):  # being decoded for long
            await asyncio.wait_for(ask(batcher, 0), 2)

    with_batcher(network, work, max_wait=0.4)
    assert network.runs == [(1, True)] * 2


def test_clients_that_ask_again_and_again_fall_into_two_groups_that_take_turns():
    network = Network(seconds=0.05)

    async def work(batcher):
        async def client(value):
            for _ in range(6):
                await ask(batcher, value)
                # The answers are sent one after the other, and the next requests read and decoded.
                await asyncio.sleep(0.003 * (value + 1))

        await asyncio.gather(*(client(value) for value in range(8)))

    with_batcher(network, work)
    assert sum(pictures for pictures, _ in network.runs) == 48
    assert 8 <= len(network.runs) <= 20, "neither all of them at once, with idle times between, nor each alone"


def test_a_batch_holds_no_more_than_configured():
    network = Network(seconds=0.01)

    async def work(batcher):
        await asyncio.gather(*(ask(batcher, value) for value in range(10)))

    with_batcher(network, work, max_batch=4)
    assert sum(pictures for pictures, _ in network.runs) == 10
    assert max(pictures for pictures, _ in network.runs) == 4


def test_a_slow_network_gets_smaller_batches_and_a_fast_one_larger():
    def largest(seconds_each):
        network = Network(seconds_each=seconds_each)

        async def work(batcher):
            await ask(batcher, 0)
            await asyncio.gather(*(ask(batcher, value) for value in range(6)))

        with_batcher(network, work, batch_seconds=0.2)
        return max(pictures for pictures, _ in network.runs)

    assert largest(0.08) <= 2
    assert largest(0.0) == 6


def test_over_the_limit_is_refused_at_once_and_says_when_to_come_back():
    network = Network(seconds_each=0.1)

    async def work(batcher):
        await ask(batcher, 0)
        waiting = [asyncio.create_task(ask(batcher, 0)) for _ in range(20)]
        await asyncio.sleep(0)
        started = time.perf_counter()
        with pytest.raises(Overloaded) as refusal:
            batcher.reserve(1)
        assert time.perf_counter() - started < 0.05
        assert refusal.value.retry_after is not None
        assert 2 <= refusal.value.retry_after <= 4, "20 pictures of 0.1 s"
        assert batcher.pending == 20
        await asyncio.gather(*waiting)
        assert batcher.pending == 0
        batcher.check_room(20)
        with pytest.raises(Overloaded):
            batcher.check_room(21)

    with_batcher(network, work, max_queue=20)


def test_a_batch_that_fails_fails_those_in_it_and_no_other():
    network = Network()

    async def work(batcher):
        failed: Any
        fine: Any
        failed, fine = await asyncio.gather(ask(batcher, 5000, True), ask(batcher, 1, False), return_exceptions=True)
        assert isinstance(failed, RuntimeError)
        assert fine.plain[0, 0] == 1
        assert (await ask(batcher, 2)).plain[0, 0] == 2

    with_batcher(network, work)


def test_no_memory_to_put_a_batch_together_fails_that_batch_alone(monkeypatch):
    network = Network()

    def fail(*_):
        raise MemoryError("no room for a batch")

    async def work(batcher):
        with monkeypatch.context() as patched:
            patched.setattr(np, "concatenate", fail)
            failed = await asyncio.wait_for(
                asyncio.gather(*(ask(batcher, value) for value in range(3)), return_exceptions=True), 5
            )
        assert [type(error) for error in failed] == [MemoryError] * 3
        answers = await asyncio.wait_for(asyncio.gather(*(ask(batcher, value) for value in range(3))), 5)
        assert [answer.plain[0, 0] for answer in answers] == [0, 1, 2]

    with_batcher(network, work)
    assert network.runs == [(3, True)]


def test_no_thread_to_run_a_batch_in_fails_that_batch_alone(monkeypatch):
    async def work(batcher):
        with monkeypatch.context() as patched:

            def fail(*_):
                raise RuntimeError("can't start new thread")

            patched.setattr(batcher._executor, "submit", fail)
            with pytest.raises(RuntimeError, match="new thread"):
                await asyncio.wait_for(ask(batcher, 1), 5)
        assert (await asyncio.wait_for(ask(batcher, 2), 5)).plain[0, 0] == 2

    with_batcher(Network(), work)


@pytest.mark.parametrize("told", ["queued", "took", "ran", "answered"])
def test_an_observer_that_fails_is_logged_once_and_takes_no_answer_away(told, caplog):
    def fail(*_):
        raise OSError("no space left on device")

    observer = Observer()
    setattr(observer, told, fail)

    async def work(batcher):
        return [(await asyncio.wait_for(ask(batcher, value), 5)).plain[0, 0] for value in range(3)]

    assert with_batcher(Network(), work, observer) == [0, 1, 2]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "no space left on device" in caplog.text


def test_a_batcher_that_ends_by_itself_ends_the_process(monkeypatch, caplog):
    """No request would ever be answered again, while the supervisor starts another worker."""
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)

    async def fail():
        raise ZeroDivisionError("nobody thought of this")

    async def work(batcher):
        assert batcher.alive
        batcher._gather = fail
        await asyncio.sleep(0.01)
        assert ended == [1]

    with_batcher(Network(), work)
    assert "nobody thought of this" in caplog.text


def test_a_batcher_that_is_stopped_does_not_end_the_process(monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    with_batcher(Network(), lambda batcher: ask(batcher, 0))
    assert ended == []


def test_whoever_has_gone_is_left_out():
    network = Network(seconds=0.1)

    async def work(batcher):
        first = asyncio.create_task(ask(batcher, 0))
        await asyncio.sleep(0.05)
        gone = [asyncio.create_task(ask(batcher, 0)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await first
        await ask(batcher, 0)

    with_batcher(network, work, max_wait=0)
    assert network.runs == [(1, True), (1, True)]


def measured(batcher, seconds_each):
    """Tell the batcher how long one picture takes, without running any."""
    for self_gradient in (False, True):
        batcher._measure(self_gradient, seconds_each)


async def enqueue(batcher, number, self_gradient=True, pictures=1):
    """Return tasks whose pictures are in the queue."""
    tasks = [asyncio.create_task(ask(batcher, 0, self_gradient, pictures)) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


async def cancel(tasks):
    for task in tasks:
        task.cancel()
    assert all(
        isinstance(error, asyncio.CancelledError) for error in await asyncio.gather(*tasks, return_exceptions=True)
    )


@pytest.mark.parametrize("forgotten", [True, False], ids=["removed", "still queued"])
@pytest.mark.parametrize("self_gradient", [True, False])
def test_cancelled_requests_take_neither_places_nor_time_of_a_batch(self_gradient, forgotten):
    """Nine cancelled requests of 10 ms each in front of ten others: all ten fit into a batch of 100 ms."""

    async def run():
        batcher = Batcher(Network(), replace(LIMITS, max_batch=10))  # not started: nothing is taken
        measured(batcher, 0.01)
        gone = await enqueue(batcher, 9, self_gradient)
        kept = await enqueue(batcher, 10, self_gradient)
        for task in gone:
            task.cancel()
        if forgotten:
            await asyncio.sleep(0)
        assert len(batcher._take()) == 10
        assert batcher.pending == 10
        await cancel(kept)

    asyncio.run(run())


def test_a_cancelled_request_gives_its_room_back_at_once():
    """New requests get its room before any batch has run, and retry_after no longer counts it."""

    async def run():
        observed: list[int] = []
        observer: Any = Observer()
        observer.queued = observed.append
        batcher = Batcher(Network(), replace(LIMITS, max_queue=4), observer)
        measured(batcher, 1.0)
        gone = await enqueue(batcher, 1, pictures=3)
        with pytest.raises(Overloaded) as refusal:
            batcher.check_room(2)
        assert refusal.value.retry_after == 3
        await cancel(gone)
        assert (batcher.pending, batcher._queued(), sum(observed)) == (0, 0, 0)
        batcher.check_room(4)
        kept = await enqueue(batcher, 1, pictures=2)
        with pytest.raises(Overloaded) as refusal:
            batcher.check_room(3)
        assert refusal.value.retry_after == 2
        await cancel(kept)
        assert (batcher.pending, sum(observed)) == (0, 0)

    asyncio.run(run())


def test_cancelled_requests_are_no_company_to_start_a_batch_for():
    network = Network()

    async def work(batcher):
        with batcher.reserve(4):  # being decoded
            first = asyncio.create_task(ask(batcher, 0))
            gone = await enqueue(batcher, 1)
            await asyncio.sleep(0.01)
            await cancel(gone)
            more = await enqueue(batcher, 1)
            await asyncio.sleep(0.02)
            assert network.runs == [], "two are there, and half of six are waited for"
            more += await enqueue(batcher, 1)
            await asyncio.wait_for(asyncio.gather(first, *more), 5)

    with_batcher(network, work, max_wait=60)
    assert network.runs == [(3, True)]


def test_a_request_that_is_cancelled_while_its_batch_runs_is_counted_once():
    network = Network(seconds=0.1)

    async def work(batcher):
        observed: list[int] = []
        batcher._observer.queued = observed.append
        tasks = [asyncio.create_task(ask(batcher, value)) for value in range(2)]
        await asyncio.sleep(0.05)
        assert network.runs == [(2, True)]
        await cancel(tasks[:1])
        assert batcher.pending == 2, "the network still runs both"
        assert (await tasks[1]).plain[0, 0] == 1
        assert (batcher.pending, sum(observed)) == (0, 0)

    with_batcher(network, work)


def test_stopping_cancels_those_whose_batch_runs_and_those_who_wait():
    network = Network(seconds=0.2)

    async def run():
        observed: list[int] = []
        observer: Any = Observer()
        observer.queued = observed.append
        batcher = Batcher(network, replace(LIMITS, max_batch=2), observer)
        batcher.start()
        tasks = [asyncio.create_task(ask(batcher, value)) for value in range(3)]
        await asyncio.sleep(0.05)
        assert network.runs == [(2, True)]
        await batcher.stop()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 3
        assert (batcher.pending, sum(observed)) == (0, 0)

    asyncio.run(run())


def test_stopping_at_the_moment_a_request_is_cancelled_ends_the_batcher():
    """On Python 3.11 asyncio.wait_for loses a cancellation that arrives together with the awaited result."""

    async def work(batcher):
        with batcher.reserve(6):  # being decoded, so that the batcher waits for them
            tasks = await enqueue(batcher, 1)
            await asyncio.sleep(0.01)
        task = asyncio.create_task(batcher.stop())  # runs beside the change that `with` has just told of
        await asyncio.wait({task}, timeout=5)
        assert task.done()
        await cancel(tasks)

    with_batcher(Network(), work, max_wait=60)


class Unsure(Network):
    """Returns plain logits of two classes, value and 0: so far apart is the answer to a picture of that value."""

    def __call__(self, images, self_gradient, with_gradient):
        super().__call__(images, self_gradient, with_gradient)
        value = images.mean(axis=(1, 2, 3))
        plain = np.stack([value, np.zeros_like(value)], axis=1)
        return Logits(plain, plain + 100 if self_gradient else None)


CLEAR, UNCLEAR = 5.0, 0.1
"""Values whose probabilities differ by 0.99 and by 0.05."""


class Runs(Observer):
    def __init__(self):
        self.seen = []

    def ran(self, run):
        self.seen.append((run.self_gradient, run.pictures, run.requests, run.auto_pictures))


def test_auto_runs_the_plain_pass_first_and_both_for_what_is_not_clear():
    network, runs = Unsure(seconds=0.01), Runs()

    async def work(batcher):
        return await asyncio.gather(*(ask(batcher, value, "auto") for value in (CLEAR, UNCLEAR, CLEAR, UNCLEAR)))

    answers = with_batcher(network, work, runs, auto_margin=0.5)
    assert network.runs == [(4, False), (2, True)]
    assert [bool(answer.second_pass[0]) for answer in answers] == [False, True, False, True]
    assert [answer.corrected[0, 0] for answer in answers] == pytest.approx([CLEAR, 100 + UNCLEAR] * 2)
    assert [answer.plain[0, 0] for answer in answers] == pytest.approx([CLEAR, UNCLEAR] * 2)
    assert runs.seen == [(False, 4, 4, 4), (True, 2, 2, 2)]


def test_auto_shares_its_passes_with_requests_of_the_other_kinds():
    network, runs = Unsure(seconds=0.01), Runs()
    asked = [(CLEAR, False), (UNCLEAR, "auto"), (CLEAR, True), (CLEAR, "auto")]

    async def work(batcher):
        return await asyncio.gather(*(ask(batcher, value, mode) for value, mode in asked))

    off, unclear, on, clear = with_batcher(network, work, runs, auto_margin=0.5)
    assert network.runs == [(3, False), (2, True)]
    assert runs.seen == [(False, 3, 3, 2), (True, 2, 2, 1)]
    assert (off.corrected, off.second_pass, on.second_pass) == (None, None, None)
    assert on.corrected[0, 0] == 100 + CLEAR
    assert unclear.corrected[0, 0] == pytest.approx(100 + UNCLEAR)
    assert clear.corrected[0, 0] == CLEAR


def test_auto_of_a_request_with_several_pictures_runs_both_passes_for_some_of_them():
    network = Unsure()
    images = np.concatenate([picture(value) for value in (UNCLEAR, CLEAR, UNCLEAR)])

    async def work(batcher):
        with batcher.reserve(3) as place:
            return (await place.run(images, "auto")).logits

    answer = with_batcher(network, work, auto_margin=0.5)
    assert network.runs == [(3, False), (2, True)]
    assert answer.second_pass.tolist() == [True, False, True]
    assert answer.corrected[:, 0] == pytest.approx([100 + UNCLEAR, CLEAR, 100 + UNCLEAR])


def test_auto_without_unclear_pictures_is_one_pass():
    network = Unsure()
    answer = with_batcher(network, lambda batcher: ask(batcher, CLEAR, "auto"), auto_margin=0.5)
    assert network.runs == [(1, False)]
    assert not answer.second_pass.any()


@pytest.mark.parametrize("broken", [False, True])
def test_a_pass_that_fails_fails_the_auto_requests_that_need_it(broken):
    class Broken(Unsure):
        def __call__(self, images, self_gradient, with_gradient):
            if self_gradient is broken:
                raise RuntimeError("out of memory")
            return super().__call__(images, self_gradient, with_gradient)

    async def work(batcher):
        asked = (ask(batcher, value, "auto") for value in (CLEAR, UNCLEAR))
        return await asyncio.gather(*asked, return_exceptions=True)

    clear, unclear = with_batcher(Broken(), work, auto_margin=0.5)
    assert isinstance(unclear, RuntimeError)
    assert isinstance(clear, RuntimeError) is not broken


def test_the_size_of_an_auto_batch_follows_how_often_the_second_pass_is_needed():
    network = Unsure(seconds_each=0.02)

    async def work(batcher):
        for value in [UNCLEAR] * 3 + [CLEAR] * 30:
            await ask(batcher, value, "auto")
        network.runs.clear()
        await asyncio.gather(*(ask(batcher, CLEAR, "auto") for _ in range(8)))
        clear = [pictures for pictures, _ in network.runs]
        for _ in range(30):
            await ask(batcher, UNCLEAR, "auto")
        network.runs.clear()
        await asyncio.gather(*(ask(batcher, UNCLEAR, "auto") for _ in range(8)))
        return max(clear), max(pictures for pictures, _ in network.runs)

    clear, unclear = with_batcher(network, work, auto_margin=0.5, batch_seconds=0.1)
    assert unclear < clear, "two passes take twice as long"


def test_auto_needs_a_threshold_and_gives_no_gradient():
    for margin, with_gradient in ((None, False), (0.5, True)):
        with pytest.raises(ValueError, match="auto needs a threshold, and gives no self-gradient"):
            with_batcher(Unsure(), lambda batcher, w=with_gradient: ask(batcher, 1, "auto", 1, w), auto_margin=margin)
