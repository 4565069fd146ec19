"""Small files are decoded together, and one of them that ends its process costs the others nothing."""

import asyncio
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sgn_serve.classify import cage
from sgn_serve.classify.cage import Cage, input_batch
from sgn_serve.classify.packed_job import answer_shape, make_packed_job, pack, places, read_answer
from sgn_serve.decoder_processes.job import PictureOptions
from sgn_serve.pictures import decoding
from sgn_serve.pictures.errors import PictureRefused
from sgn_serve.settings import Settings
from tests.sgn_serve.classify.packed_faults import JOB
from tests.sgn_serve.sample_pictures import encode, noise

OPTIONS = PictureOptions((4, 6), 10_000)


def decode(files: list[bytes], **settings: float) -> list[object]:
    async def run() -> list[object]:
        started = Cage(OPTIONS, Settings(**settings), 1)  # type: ignore[arg-type]
        await started.start()
        try:
            return list(await started.decode(files))
        finally:
            await started.close()

    return asyncio.run(run())


def test_a_file_that_ends_its_process_is_the_only_one_with_an_error(monkeypatch):
    monkeypatch.setattr(cage, "_JOB", JOB)
    commands = ["well", "segfault", "well", "raise", "loop", "large well", "exit", "well"]
    found = decode([command.encode() for command in commands], decode_seconds=0.2)
    good = [number for number, one in enumerate(found) if isinstance(one, np.ndarray)]
    assert [commands[number] for number in good] == ["well", "well", "large well", "well"]
    codes = [one.code for one in found if isinstance(one, PictureRefused)]
    assert codes == ["decoder_crashed", "damaged_image", "too_slow_to_decode", "decoder_crashed"]
    values = [float(input_batch([found[number]]).max()) for number in good]  # type: ignore[list-item]
    assert values == pytest.approx([0.2, 0.2, 1, 0.2])


def test_a_picture_that_fits_only_a_new_process_is_answered_whatever_came_before(monkeypatch):
    monkeypatch.setattr(cage, "_JOB", JOB)
    first, *others = decode([b"large keep 100", b"large take 120", b"large take 120", b"large take 500", b"large well"])
    good, again, refused, last = others
    assert all(isinstance(one, np.ndarray) for one in (first, good, again, last))
    assert isinstance(refused, PictureRefused)
    assert refused.code == "too_many_pixels"


def test_a_picture_that_crashes_only_a_used_process_is_answered_whatever_came_before(monkeypatch):
    monkeypatch.setattr(cage, "_JOB", JOB)
    commands = [
        b"keep 20",
        b"take_or_crash 20",
        b"large keep 100",
        b"large take_or_crash 120",
        b"large take_or_crash 500",
    ]
    found = decode(commands)
    assert all(isinstance(one, np.ndarray) for one in found[:-1])
    assert isinstance(found[-1], PictureRefused)
    assert found[-1].code == "decoder_crashed"


def test_a_picture_that_takes_longer_than_its_time_on_a_busy_machine_is_answered(monkeypatch):
    monkeypatch.setattr(cage, "_JOB", JOB)
    slow, too_slow = decode([b"large work 0.5", b"large loop"], decode_seconds=0.4)
    assert isinstance(slow, np.ndarray)
    assert isinstance(too_slow, PictureRefused)
    assert str(too_slow) == "the request's pictures take more than 0.8 s to decode"


def test_files_are_decoded_as_each_is_alone():
    pictures = [encode(Image.fromarray(noise(4, 6, 1))), encode(Image.fromarray(noise(30, 20, 2)), "JPEG"), b"no"]
    pictures.append(encode(Image.new("L", (1200, 900), 77)))  # more than a megapixel: a large one
    found = decode(pictures, max_pixels=2_000_000)
    assert isinstance(found[2], PictureRefused)
    assert found[2].code == "not_an_image"
    refused = found.pop(3)
    assert isinstance(refused, PictureRefused)  # OPTIONS, which are those of the model, refuse it
    assert refused.code == "too_many_pixels"
    wanted = [decoding.decode(picture, (4, 6), 10_000) for picture in pictures[:2]]
    np.testing.assert_array_equal(input_batch(found[:2]), np.stack(wanted))  # type: ignore[arg-type]
    mixed = input_batch([found[0], decoding.to_input(found[1])])  # type: ignore[list-item, arg-type]
    np.testing.assert_array_equal(mixed, np.stack(wanted))


def test_an_answer_tells_which_files_of_a_message_it_holds():
    options = OPTIONS.as_json()
    job = make_packed_job(**options)
    good, bad = encode(Image.fromarray(noise(4, 6))), b"damaged"
    answer = job(pack([good, bad, good]), 10_000)
    assert answer.shape == (*answer_shape((4, 6)), 3)
    first, second, third = read_answer(answer, 3, (4, 6))
    assert second is None
    wanted = decoding.to_rgb(decoding.open_picture(BytesIO(good), 10_000), (4, 6))
    np.testing.assert_array_equal(first, wanted)
    np.testing.assert_array_equal(third, wanted)
    np.testing.assert_array_equal(job(pack([good]), 10_000), wanted)
    with pytest.raises(PictureRefused):
        job(pack([bad]), 10_000)


def test_a_message_holds_no_more_pixels_than_its_process_has_memory_for():
    assert places((8, 8)) == 128
    assert places((224, 224)) == 6
    assert places((2000, 2000)) == 1
