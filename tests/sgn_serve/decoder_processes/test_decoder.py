"""Decoders with planted faults. Each costs its own picture a refusal, and the next one is answered."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from sgn_serve.decoder_processes import decoder as decoder_module
from sgn_serve.decoder_processes.child import _SPARE_CPU_SECONDS, LIFE_CPU_SECONDS
from sgn_serve.decoder_processes.decoder import QUICK_FILE, QUICK_PIXELS, Decoder, DecoderLimits
from sgn_serve.decoder_processes.job import LARGE_PIXELS, PictureOptions
from sgn_serve.decoder_processes.large_pictures import MAX_WAITING
from sgn_serve.pictures import decoding
from sgn_serve.pictures.errors import (
    DamagedImage,
    DecoderCrashed,
    NotAnImage,
    PictureRefused,
    TooManyPixels,
    TooManyWaiting,
    TooSlow,
)
from sgn_serve.process import confinement
from sgn_serve.telemetry import metrics
from tests.sgn_serve.decoder_processes import faults
from tests.sgn_serve.sample_pictures import encode, noise

OPTIONS = PictureOptions((8, 8), 25_000_000)
FILE_BYTES = 10 << 20
SMALL, LARGE = 51, 255
"""Values of the pixels that the planted jobs answer, in processes for small and for large pictures."""


@asynccontextmanager
async def running(job: str = faults.JOB, seconds: float = 20.0) -> AsyncIterator[Decoder]:
    """Run a decoder until the block ends. It has one process for small pictures."""
    decoder = Decoder(OPTIONS, DecoderLimits(processes=1, seconds=seconds, file_bytes=FILE_BYTES), job)
    await decoder.start()
    try:
        yield decoder
    finally:
        await decoder.close()


async def value(decoder: Decoder, command: str, request: object = 0) -> int:
    """Return the value of all the pixels that a command is answered with."""
    pixels = await decoder.decode(BytesIO(command.encode()), request)
    assert pixels.shape == (3, 8, 8)
    assert pixels.min() == pixels.max()
    return round(float(pixels.max()) * 255)


def ends(reason: str) -> float:
    """Return how many processes have ended for a reason."""
    return float(metrics.DECODER_ENDS.labels(reason)._value.get())


def process_ids(decoder: Decoder) -> list[int]:
    return [process.pid for process in decoder.small.processes + decoder.large.processes if process.pid]


@pytest.mark.parametrize("size", [(8, 8), (LARGE_PIXELS // 1000, 1001)])
def test_a_picture_is_decoded_as_without_a_process(size: tuple[int, int]) -> None:
    data = encode(Image.fromarray(noise(*size)))

    async def ask() -> NDArray[np.float32]:
        async with running(decoder_module.JOB) as decoder:
            return await decoder.decode(BytesIO(data), 0)

    assert np.array_equal(asyncio.run(ask()), decoding.decode(data, (8, 8), 25_000_000))


def test_a_refusal_arrives_as_it_was_raised() -> None:
    async def ask() -> None:
        async with running(decoder_module.JOB) as decoder:
            for data in (b"no picture", encode(Image.fromarray(noise()))[:100]):
                with pytest.raises(PictureRefused) as expected:
                    decoding.decode(data, (8, 8), 25_000_000)
                with pytest.raises(type(expected.value)) as refused:
                    await decoder.decode(BytesIO(data), 0)
                assert str(refused.value) == str(expected.value)
            with pytest.raises(NotAnImage):
                await decoder.decode(BytesIO(b""), 0)

    asyncio.run(ask())


FAULTS: dict[str, type[PictureRefused]] = {
    "segfault": DecoderCrashed,
    "abort": DecoderCrashed,
    "exit": DecoderCrashed,
    "raise": DamagedImage,
    "allocate": TooManyPixels,
    "take 500": TooManyPixels,
    "fail_to_allocate_in_c": TooManyPixels,
}


def test_a_fault_costs_its_own_picture_a_refusal_and_nobody_else_anything() -> None:
    async def ask() -> None:
        async with running() as decoder:
            for command, prefix in product(FAULTS, ("", "large ")):
                beside = asyncio.create_task(value(decoder, "large work 0.1", "beside"))
                with pytest.raises(PictureRefused) as refused:
                    await value(decoder, prefix + command)
                assert refused.type is FAULTS[command], prefix + command
                assert await value(decoder, "well") == SMALL, prefix + command
                assert await value(decoder, "large well") == LARGE, prefix + command
                assert await beside == LARGE, prefix + command

    asyncio.run(ask())


@pytest.mark.parametrize("command", ["loop", "loop_deaf", "sleep"])
def test_a_picture_that_takes_for_ever_is_ended(command: str) -> None:
    async def ask() -> None:
        async with running(seconds=2.0) as decoder:
            slow = asyncio.create_task(value(decoder, command, "slow"))
            assert await value(decoder, "well") == SMALL, "as soon as the process is replaced"
            assert await value(decoder, "well") == SMALL
            with pytest.raises(TooSlow, match="take more than 2 s to decode"):
                await slow
            assert await value(decoder, "large well") == LARGE

    asyncio.run(ask())


def test_a_process_that_blocks_every_signal_is_ended_by_its_processor_time() -> None:
    """Nothing else would end it here within minutes: neither the timer of the picture nor the service."""

    async def ask() -> None:
        limits = DecoderLimits(processes=1, seconds=600.0, file_bytes=FILE_BYTES, cpu_seconds=1.0)
        decoder = Decoder(OPTIONS, limits, faults.SHORT_LIVED)
        await decoder.start()
        try:
            with pytest.raises(TooSlow, match="take more than 1 s to decode"):
                await value(decoder, "large loop_deaf")
            assert await value(decoder, "large well") == LARGE
        finally:
            await decoder.close()

    asyncio.run(asyncio.wait_for(ask(), 300))


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="the system does not tell the limits of others")
def test_the_whole_life_of_a_process_has_a_limit_of_processor_time() -> None:
    async def ask() -> list[tuple[int, int]]:
        async with running() as decoder:
            assert [await value(decoder, command) for command in ("well", "large well")] == [SMALL, LARGE]
            return [psutil.Process(pid).rlimit(psutil.RLIMIT_CPU) for pid in process_ids(decoder)]

    most = int(LIFE_CPU_SECONDS + 20.0) + _SPARE_CPU_SECONDS
    assert asyncio.run(ask()) == [(most, most)] * 2


def test_a_process_whose_life_is_over_is_replaced_and_costs_no_picture_anything() -> None:
    async def ask() -> None:
        async with running(faults.SHORT_LIVED) as decoder:
            for _ in range(5):
                assert await asyncio.gather(*(value(decoder, "well", number) for number in range(4))) == [SMALL] * 4
                assert await value(decoder, "large well") == LARGE

    before = ends("age"), ends("crash"), ends("memory")
    asyncio.run(ask())
    after = ends("age"), ends("crash"), ends("memory")
    assert after[0] >= before[0] + 20, "of 25 pictures; the last processes may end with the decoder"
    assert after[1:] == before[1:]


def test_a_process_that_only_pretends_to_end_is_ended() -> None:
    async def ask() -> None:
        async with running() as decoder:
            (liar,) = (process.pid for process in decoder.small.processes)
            with pytest.raises(TooManyPixels):
                await value(decoder, "pretend_to_end")
            assert await value(decoder, "well") == SMALL
            assert await value(decoder, "large well") == LARGE
            assert not psutil.pid_exists(liar)

    asyncio.run(ask())


def test_what_passes_the_limits_of_small_pictures_is_decoded_as_a_large_one() -> None:
    async def ask() -> None:
        async with running() as decoder:
            assert await value(decoder, "take 16") == SMALL
            assert await value(decoder, "take 100") == LARGE
            assert await value(decoder, "work 0.5") == LARGE
            assert await value(decoder, "well") == SMALL

    asyncio.run(ask())


def test_the_service_decodes_nothing_again_that_lacks_memory() -> None:
    """A hostile picture would cost twice as much."""

    async def ask() -> None:
        async with running() as decoder:
            assert await value(decoder, "large keep 100") == LARGE
            with pytest.raises(TooManyPixels):
                await value(decoder, "large take 120")

    asyncio.run(ask())


def test_what_is_no_quick_picture_is_decoded_all_the_same_where_pictures_wait() -> None:
    async def ask() -> None:
        async with running() as decoder:
            commands = ["work 0.03", "take 16", "large well", f"well{' ' * QUICK_FILE}"] * 3
            answers = await asyncio.gather(*(value(decoder, command, place) for place, command in enumerate(commands)))
            assert answers == [SMALL, SMALL, LARGE, SMALL] * 3

    asyncio.run(ask())


def test_a_picture_that_waits_is_decoded_as_without_a_process() -> None:
    sizes = [(8, 8), (400, 400), (LARGE_PIXELS // 1000, 1001)] * 2
    assert 8 * 8 < QUICK_PIXELS < 400 * 400 < LARGE_PIXELS
    pictures = [encode(Image.fromarray(noise(*size))) for size in sizes]

    async def ask() -> list[NDArray[np.float32]]:
        async with running(decoder_module.JOB) as decoder:
            return await asyncio.gather(*(decoder.decode(BytesIO(data), data) for data in pictures))

    for data, pixels in zip(pictures, asyncio.run(ask()), strict=True):
        assert np.array_equal(pixels, decoding.decode(data, (8, 8), 25_000_000))


FORBIDDEN = ["open", "write", "list", "connect", "fork", "execute", "signal_service", "run_data"]


@pytest.mark.skipif(
    not (confinement.landlock_version() and os.uname().machine in ("x86_64", "aarch64")),
    reason="the kernel has no Landlock",
)
def test_a_decoder_reaches_nothing_outside(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> None:
        async with running() as decoder:
            for number, command in enumerate(FORBIDDEN, 1):
                with pytest.raises(DamagedImage):
                    await value(decoder, command)
                assert caplog.text.count("Operation not permitted") == number, f"{command} was not denied"
                assert await value(decoder, "well") == SMALL, command

    with caplog.at_level(logging.INFO, "bentoml.sgn_serve"):
        asyncio.run(ask())
    assert "Landlock (ABI" in caplog.text
    assert ", seccomp, a limit of memory" in caplog.text
    assert "_Attempt" not in caplog.text


def test_without_landlock_and_seccomp_the_limit_of_files_denies_them(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> None:
        async with running(faults.WITHOUT_KERNEL) as decoder:
            for number, command in enumerate(("open", "write", "list", "connect"), 1):
                with pytest.raises(DamagedImage):
                    await value(decoder, command)
                assert caplog.text.count("Too many open files") == number, f"{command} was not denied"
                assert await value(decoder, "well") == SMALL, command
            with pytest.raises(TooManyPixels):
                await value(decoder, "allocate")
            assert await value(decoder, "well") == SMALL

    with caplog.at_level(logging.INFO, "bentoml.sgn_serve"):
        asyncio.run(ask())
    assert "no Landlock, no seccomp, a limit of memory" in caplog.text
    assert "_Attempt" not in caplog.text


def test_a_decoder_inherits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGN_API_TOKEN", "0123456789abcdef")

    async def ask() -> None:
        with open(os.devnull) as inheritable:
            os.set_inheritable(inheritable.fileno(), True)
            async with running() as decoder:
                for command in ("environment", "descriptors"):
                    assert await value(decoder, command) == SMALL, command
                    assert await value(decoder, f"large {command}") == LARGE, command

    asyncio.run(ask())


def test_what_libraries_write_on_the_standard_error_output_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    async def ask() -> None:
        async with running() as decoder:
            assert await value(decoder, "write_on_stderr") == SMALL

    asyncio.run(ask())
    assert capfd.readouterr() == ("", "")


def test_pictures_of_one_request_take_turns_with_those_of_others() -> None:
    async def ask() -> None:
        order: list[str] = []

        async def one(command: str, request: str) -> None:
            await value(decoder, command, request)
            order.append(request)

        async with running() as decoder:
            many = [asyncio.create_task(one("large work 0.02", "many")) for _ in range(10)]
            await asyncio.sleep(0)
            others = [asyncio.create_task(one("large work 0.02", name)) for name in ("a", "b", "c")]
            await asyncio.gather(*many, *others)
        assert len(order) == 13
        assert set(order[:8]) == {"many", "a", "b", "c"}

    asyncio.run(ask())


def test_all_pictures_of_a_request_have_one_time_limit() -> None:
    async def ask() -> None:
        async with running(seconds=2.0) as decoder:
            commands = ["large well", "large loop", "large loop", "large well"]
            answers = await asyncio.gather(
                *(value(decoder, command, "one") for command in commands), return_exceptions=True
            )
            assert answers[0] == LARGE
            assert [type(answer) for answer in answers[1:]] == [TooSlow] * 3
            assert await value(decoder, "large well", "one") == LARGE, "a new request, with a time of its own"

    asyncio.run(ask())


def test_who_has_waited_too_long_for_others_may_come_again() -> None:
    async def ask() -> None:
        async with running(seconds=0.5) as decoder:
            first = asyncio.create_task(value(decoder, "large loop", "first"))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(value(decoder, "large work 0.2", "second"))
            await asyncio.sleep(0.1)
            third = asyncio.create_task(value(decoder, "large loop", "third"))
            with pytest.raises(TooSlow):
                await first
            with pytest.raises((TooSlow, TooManyWaiting)):
                await second
            with pytest.raises((TooSlow, TooManyWaiting)):
                await third
            decoder.limits = replace(decoder.limits, seconds=60.0)  # a busy machine may take longer for this one
            assert await value(decoder, "large well", "second") == LARGE

    asyncio.run(ask())


def test_few_large_pictures_of_different_requests_wait() -> None:
    async def ask() -> None:
        async with running(seconds=60.0) as decoder:
            # The first one does not end, or it might be gone before the last one waits.
            first = asyncio.create_task(value(decoder, "large sleep", "first"))
            waiting = [asyncio.create_task(value(decoder, "large well", name)) for name in range(MAX_WAITING - 1)]
            while decoder._waiting.others(None) < MAX_WAITING:
                await asyncio.sleep(0.001)
            with pytest.raises(TooManyWaiting) as refused:
                await value(decoder, "large well", "another")
            assert refused.value.retry_after is not None
            assert await value(decoder, "well", "small") == SMALL
            first.cancel()
            assert await asyncio.gather(*waiting) == [LARGE] * (MAX_WAITING - 1)
            assert await value(decoder, "large well", "another") == LARGE

    asyncio.run(ask())


@pytest.mark.parametrize("command", ["large loop", "loop"])
def test_a_cancelled_picture_frees_its_process(command: str) -> None:
    async def ask() -> None:
        async with running(seconds=60.0) as decoder:
            running_one = asyncio.create_task(value(decoder, command, "gone"))
            waiting = [asyncio.create_task(value(decoder, command, "gone")) for _ in range(5)]
            await asyncio.sleep(0.02)
            for task in (running_one, *waiting):
                task.cancel()
            await asyncio.gather(running_one, *waiting, return_exceptions=True)
            assert await value(decoder, "well") == SMALL
            assert await value(decoder, "large well") == LARGE
            assert not decoder._accounts
            assert decoder._waiting.others(None) == 0

    asyncio.run(ask())


def test_a_file_that_cannot_be_read_costs_its_process_and_nobody_else_anything() -> None:
    class Unreadable(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("the disk fails")

    async def run() -> None:
        async with running() as decoder:
            for _ in range(3):
                with pytest.raises(TooManyWaiting):
                    await decoder.decode(Unreadable(b"x"), 0)
                assert await value(decoder, "well") == SMALL

    asyncio.run(run())


def test_a_file_on_disk_is_decoded_as_one_in_memory(tmp_path: Path) -> None:
    data = encode(Image.fromarray(noise(1200, 900)), "BMP")
    assert len(data) > 3 << 20, "it is read in several pieces"
    (tmp_path / "picture.bmp").write_bytes(data)

    async def run() -> None:
        decoder = Decoder(OPTIONS, DecoderLimits(processes=2, seconds=3.5, file_bytes=FILE_BYTES))
        await decoder.start()
        try:
            expected = decoding.decode(data, OPTIONS.size, OPTIONS.max_pixels)
            for _ in range(2):
                with (tmp_path / "picture.bmp").open("rb") as file:
                    assert np.array_equal(await decoder.decode(file, 0), expected)
                assert np.array_equal(await decoder.decode(BytesIO(data), 0), expected)
        finally:
            await decoder.close()

    asyncio.run(run())


def test_an_ended_fork_server_is_replaced() -> None:
    async def ask() -> None:
        async with running() as decoder:
            before = process_ids(decoder)
            os.kill(decoder.fork_server.pid, signal.SIGKILL)
            assert await value(decoder, "well") == SMALL
            assert await value(decoder, "large well") == LARGE
            await asyncio.to_thread(
                psutil.wait_procs, [psutil.Process(pid) for pid in before if psutil.pid_exists(pid)], 10
            )
            assert not any(psutil.pid_exists(pid) for pid in before)

    asyncio.run(ask())


def test_no_process_is_left() -> None:
    async def ask() -> list[int]:
        async with running(seconds=5.0) as decoder:
            with pytest.raises(DecoderCrashed):
                await value(decoder, "segfault")
            looping = asyncio.create_task(value(decoder, "large loop", "looping"))
            assert await value(decoder, "well") == SMALL
            found = [decoder.fork_server.pid, *process_ids(decoder)]
        with pytest.raises(TooManyWaiting):
            await looping
        return found

    for pid in asyncio.run(ask()):
        with pytest.raises(psutil.NoSuchProcess):
            psutil.Process(pid).wait(10)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs PR_SET_PDEATHSIG")
def test_no_process_outlives_a_killed_service(project_root: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from tests.sgn_serve.decoder_processes.test_decoder import process_ids, running, value\n"
        "async def main():\n"
        "    async with running() as decoder:\n"
        "        task = asyncio.create_task(value(decoder, 'large sleep'))\n"
        "        await value(decoder, 'well')\n"
        "        print(decoder.fork_server.pid, *process_ids(decoder), flush=True)\n"
        "        await task\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=project_root, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        pids = [int(pid) for pid in service.stdout.readline().split()]
        assert len(pids) == 3
        processes = [psutil.Process(pid) for pid in pids]
        service.kill()
        service.wait(10)
    _, alive = psutil.wait_procs(processes, 10)
    assert not alive
