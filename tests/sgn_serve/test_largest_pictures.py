"""The largest pictures that are allowed, at the same time, alone and while bodies and heads stall."""

import random
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache

import pytest
from PIL import Image

from release.hostile.seeds import tiff
from tests.sgn_serve.sample_pictures import TIFF_DATA, encode, first_scans
from tests.sgn_serve.watched_server import STALLED, UNFINISHED_HEAD, stalling, unfinished_body, watched_server

PATIENT_SECONDS = "60"
"""For the largest pictures that are allowed: they are answered whatever else the machine does."""
SIDE = 5000
"""Side of a picture with 25 megapixels, which is just allowed."""


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """Run a server that gives a picture a minute."""
    with watched_server(tmp_path_factory.mktemp("home"), PATIENT_SECONDS) as watched:
        yield watched


@cache
def largest_pictures() -> list[bytes]:
    """Return the allowed pictures that take the most memory, and last a file that is not a picture."""
    colour = Image.new("RGB", (SIDE, SIDE), (200, 30, 40))
    inks = colour.convert("CMYK")
    two_thirds = (0, 0, SIDE, SIDE * 2 // 3)
    half = zlib.compress(bytes(2 * SIDE * SIDE), 1)  # in two strips
    tags = {258: [8] * 4, 259: 8, 262: 5, 277: 4, 278: SIDE // 2}
    strips = {273: [TIFF_DATA, TIFF_DATA + len(half)], 279: [len(half)] * 2}
    return [
        encode(colour.convert("LA"), "PNG", compress_level=1),
        encode(colour, "JPEG", progressive=True, subsampling="4:2:2"),
        first_scans(encode(inks.crop(two_thirds), "JPEG", progressive=True), 10),
        encode(colour.crop(two_thirds), "JPEG", progressive=True, subsampling="4:4:4"),
        tiff(half * 2, tags | strips | {256: SIDE, 257: SIDE}),
        encode(inks, "TIFF", compression="tiff_lzw"),
        encode(colour.convert("L"), "GIF"),
        large_webp(SIDE * 2 // 5),
        b"\x89PNG" + random.Random(0).randbytes(9_000_000),
    ]


def large_webp(height: int) -> bytes:
    return encode(Image.new("RGBA", (SIDE, height), (200, 30, 40, 100)), "WEBP", quality=10, method=0)


@pytest.mark.thorough
def test_the_largest_pictures_at_the_same_time_stay_within_the_memory(patient):
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(patient.insist, largest_pictures()))  # one more than may wait
    assert statuses == [200] * 8 + [415], "the last one is no picture"
    patient.check_alive()


@pytest.mark.thorough
def test_the_largest_pictures_while_bodies_and_heads_stall_stay_within_the_memory(patient):
    pictures = largest_pictures()[:8]
    body = unfinished_body(48_000, 1)  # STALLED of them hold nearly, but not quite, what all bodies may together
    with ExitStack() as stack, ThreadPoolExecutor(16) as askers, ThreadPoolExecutor(8) as stallers:
        first = [askers.submit(patient.ask, data) for data in pictures * 2]  # while the others arrive
        for data in (body, UNFINISHED_HEAD):
            for connection in stallers.map(lambda _, data=data: stalling(patient, data), range(STALLED)):
                stack.enter_context(connection)
        later = [askers.submit(patient.insist, data) for data in pictures]  # while they hold what they sent
        answers = Counter(answer.result().status_code for answer in first)
        assert {200} <= answers.keys() <= {200, 503}, answers
        assert {answer.result() for answer in later} == {200}
        patient.check_alive()
