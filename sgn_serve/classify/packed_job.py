"""Decode several small files in one message, in a decoder process.

A message and its answer cost about as much as decoding a picture of 32x32 pixels. So small files go together. Only
those that are decoded without any trouble are answered here. Every other one is decoded again by itself, as the server
does it, so that its answer is the server's.
"""

from struct import Struct

import numpy as np
from numpy.typing import NDArray

from sgn_serve.decoder_processes.job import Job, make_job

_NUMBER = Struct("<I")
_MOST_FILES = 128
"""Most files of one message. A process that wakes up for fewer finds its caches full of the network's weights."""
_MOST_BYTES = 1 << 20
"""Most bytes of the pixels in one answer."""
DECODED, NOT_DECODED = 0, 1


def places(size: tuple[int, int]) -> int:
    """Return how many files one message may hold.

    Args:
        size: (height, width) in pixels that pictures become.
    """
    return max(1, min(_MOST_FILES, _MOST_BYTES // (3 * size[0] * size[1])))


def pack(files: list[bytes]) -> bytes:
    """Return one message of some files."""
    return b"".join([_NUMBER.pack(len(files)), *(_NUMBER.pack(len(file)) for file in files), *files])


def _unpack(message: bytes) -> list[bytes]:
    (count,) = _NUMBER.unpack_from(message)
    begin = (1 + count) * _NUMBER.size
    files = []
    for number in range(count):
        (length,) = _NUMBER.unpack_from(message, (1 + number) * _NUMBER.size)
        files.append(message[begin : begin + length])
        begin += length
    return files


def answer_shape(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of the picture that an answer to several files looks like: one row of pixels.

    It holds a byte for each place, DECODED or NOT_DECODED, and then the pixels of each place.
    """
    count = places(size)
    return 1, -(-count * (1 + 3 * size[0] * size[1]) // 3)


def read_answer(answer: NDArray[np.uint8], files: int, size: tuple[int, int]) -> list[NDArray[np.uint8] | None]:
    """Return the pixels of each file, RGB from 0 to 255, (height, width, 3). None for one that was not decoded."""
    flat, count, each = answer.reshape(-1), places(size), 3 * size[0] * size[1]
    pixels = flat[count : count * (1 + each)].reshape(count, *size, 3)
    return [pixels[place] if flat[place] == DECODED else None for place in range(files)]


def make_packed_job(size: list[int], max_pixels: int, background: list[int], resize: str, formats: list[str]) -> Job:
    """Return the job of a decoder process whose messages are those of `pack`.

    Args:
        size: See decoder_processes.job.PictureOptions, as for all others.
        max_pixels: See there.
        background: See there.
        resize: See there.
        formats: See there.
    """
    height, width = size
    return packed(make_job(size, max_pixels, background, resize, formats), (height, width))


def packed(decode: Job, size: tuple[int, int]) -> Job:
    """Return a job whose messages are those of `pack`.

    Args:
        decode: The job for one file.
        size: (height, width) in pixels that pictures become.
    """
    height, width = size
    count, shape = places(size), answer_shape(size)

    def decode_message(message: bytes, most_pixels: int) -> NDArray[np.uint8]:
        files = _unpack(message)
        if len(files) == 1:
            return decode(files[0], most_pixels)
        answer = np.zeros(3 * shape[1], np.uint8)
        pixels = answer[count : count * (1 + 3 * height * width)].reshape(count, height, width, 3)
        for place, file in enumerate(files):
            try:
                pixels[place] = decode(file, most_pixels)
            except MemoryError:
                raise
            except Exception:  # a refusal, or whatever a parser raises: its own message will tell
                answer[place] = NOT_DECODED
        return answer.reshape(*shape, 3)

    return decode_message
