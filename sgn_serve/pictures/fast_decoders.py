"""Decode here the pixels that Pillow decodes one at a time in Python, in a tenth of the time."""

import re
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_BLOCK = 1 << 18
_NAMES = {
    "qoi": "sgn_qoi",
    "ppm": "sgn_ppm",
    "ppm_plain": "sgn_ppm_plain",
    "dds_rgb": "sgn_dds_rgb",
    "bmp_rle": "sgn_bmp_rle",
}
"""Pillow's decoders, and those here in their place. They take the same arguments."""

_BYTES = [bytes([byte]) for byte in range(256)]
_HALVES = [bytes([byte >> 4, byte & 15]) for byte in range(256)]
"""The two pixels of a byte of a BMP with 16 colours."""


def correct(picture: Any) -> None:
    """Have an opened picture decoded here, if it is of such a kind."""
    for index, tile in enumerate(picture.tile):
        if tile[0] in _NAMES and (picture.mode != "1" or tile[0] == "bmp_rle"):
            picture.tile[index] = type(tile)(_NAMES[tile[0]], *tile[1:])


class _WholeDecoder(ImageFile.PyDecoder):
    """Reads the pixels' bytes from the file, in blocks, so that a file that refuses to be read ends it."""

    _pulls_fd = True

    def _read(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = self.fd.read(min(size, _BLOCK)) if self.fd is not None else b""
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _pixels(self) -> int:
        return int(self.state.xsize * self.state.ysize)


class _PpmDecoder(_WholeDecoder):
    """Decodes a PPM or PGM whose white is another value than 255."""

    def decode(self, buffer: Any) -> tuple[int, int]:
        white = self.args[-1]
        kind = np.dtype(np.uint8 if white < 256 else ">u2")
        stored = self._read(self._samples() * kind.itemsize)
        self._set(np.frombuffer(stored, kind, len(stored) // kind.itemsize), white)
        return -1, 0

    def _samples(self) -> int:
        return self._pixels() * (1 if self.mode == "I" else Image.getmodebands(self.mode))

    def _set(self, values: NDArray[np.integer], white: int) -> None:
        wide = self.mode == "I"
        most = 65535 if wide else 255
        table = np.rint(np.arange(65536 if white > 255 else 256) * (most / white)).clip(0, most)
        scaled = table.astype(np.int32 if wide else np.uint8)[values]
        self.set_as_raw(scaled.tobytes(), "I;32N" if wide else self.mode)


class _PlainPpmDecoder(_PpmDecoder):
    """Decodes a PPM or PGM whose samples are written as text."""

    def decode(self, buffer: Any) -> tuple[int, int]:
        white = self.args[-1]
        text = re.sub(rb"#[^\r\n]*", b"", self._read(sys.maxsize))
        # Given a count, NumPy fills up what is missing with whatever lies in memory. So the text is cut instead.
        values = np.fromstring(_first_words(text, self._samples()).decode("latin-1"), np.int64, sep=" ")
        if len(values) and not 0 <= values.min() <= values.max() <= white:
            raise ValueError("a sample lies beyond white or below black")
        self._set(values, white)
        return -1, 0


def _first_words(text: bytes, count: int) -> bytes:
    """Return the beginning of a text up to so many words, all of it if there are fewer."""
    is_space = np.frombuffer(text, np.uint8) <= ord(" ")
    begins = np.flatnonzero(~is_space & np.concatenate([[True], is_space[:-1]]))
    return text[: begins[count]] if len(begins) > count else text


class _DdsDecoder(_WholeDecoder):
    """Decodes a DDS without compression, whose channels are any bits of a pixel."""

    def decode(self, buffer: Any) -> tuple[int, int]:
        bits, masks = self.args
        size = bits // 8
        stored = self._read(self._pixels() * size)
        count = len(stored) // size
        parts = np.frombuffer(stored, np.uint8, count * size).reshape(count, size)
        values = sum(parts[:, place].astype(np.uint32) << np.uint32(8 * place) for place in range(size))
        self.set_as_raw(np.stack([_channel(values, mask) for mask in masks], axis=1).tobytes())
        return -1, 0


def _channel(values: Any, mask: int) -> NDArray[np.uint8]:
    if not mask:
        return np.zeros(len(values), np.uint8)
    shift = (mask & -mask).bit_length() - 1
    return (((values & np.uint32(mask)) >> np.uint32(shift)) * (255.0 / (mask >> shift))).round().astype(np.uint8)


class _QoiDecoder(_WholeDecoder):
    """Decodes a QOI. Pillow's decoder forgets the colour of a run that comes first.

    Source: The Quite OK Image Format for Fast, Lossless Compression, version 1.0.
    """

    def decode(self, buffer: Any) -> tuple[int, int]:
        wanted, found = self._pixels(), 0
        colours: list[int] = []
        counts: list[int] = []
        seen = [0] * 64
        red = green = blue = 0
        alpha = 255
        left = b""
        while found < wanted:
            part = self._read(_BLOCK)
            data, at = left + part, 0
            end = len(data) - (4 if part else 0)  # no operation has more than five bytes
            if at >= end:
                break
            while at < end and found < wanted:
                byte = data[at]
                at += 1
                count = 1
                if byte < 0x40:
                    colour = seen[byte]
                    red, green, blue, alpha = colour & 255, colour >> 8 & 255, colour >> 16 & 255, colour >> 24
                elif byte < 0x80:
                    red, green, blue = red + (byte >> 4 & 3) - 2, green + (byte >> 2 & 3) - 2, blue + (byte & 3) - 2
                elif byte < 0xC0:
                    if at >= len(data):
                        break
                    second, change = data[at], byte - 0xA0
                    at += 1
                    red, green = red + change + (second >> 4) - 8, green + change
                    blue += change + (second & 15) - 8
                elif byte < 0xFE:
                    count = byte - 0xBF
                else:
                    size = 3 if byte == 0xFE else 4
                    if at + size > len(data):
                        at = len(data)
                        break
                    red, green, blue = data[at : at + 3]
                    alpha = alpha if size == 3 else data[at + 3]
                    at += size
                red, green, blue = red & 255, green & 255, blue & 255
                colour = red | green << 8 | blue << 16 | alpha << 24
                seen[(red * 3 + green * 5 + blue * 7 + alpha * 11) & 63] = colour
                colours.append(colour)
                counts.append(count)
                found += count
            left = data[at:]
            if not part:
                break
        pixels = np.repeat(np.array(colours, "<u4"), counts)[:wanted]
        bands = Image.getmodebands(self.mode)
        self.set_as_raw(pixels.view(np.uint8).reshape(-1, 4)[:, :bands].tobytes())
        return -1, 0


class _BmpRleDecoder(_WholeDecoder):
    """Decodes a BMP with run-length encoding. Pillow fills up lines a pixel at a time: 25 million took 4 s.

    Source: Pillow 13's BmpImagePlugin.BmpRleDecoder, whose pixels these are, those of broken files included.
    """

    def decode(self, buffer: Any) -> tuple[int, int]:
        half_bytes = self.args[1]
        width, wanted = self.state.xsize, self._pixels()
        position = self.fd.tell() if self.fd is not None else 0
        colours = _HALVES if half_bytes else _BYTES
        stored = self._read(sys.maxsize)
        last = len(stored) - 1
        data = bytearray()
        at = x = 0
        while len(data) < wanted and at < last:
            count, value = stored[at], stored[at + 1]
            at += 2
            if count:  # a run
                if count > width - x:
                    count = max(0, width - x)
                if count == 1 and not half_bytes:
                    data.append(value)
                else:
                    data += colours[value] * count if not half_bytes else (colours[value] * 128)[:count]
                x += count
            elif value == 0:  # the end of a line
                data += bytes(-len(data) % width)
                x = 0
            elif value == 1:  # the end of the picture
                break
            elif value == 2:  # a step to the right and up
                if at >= last:
                    break
                data += bytes(min(wanted - len(data), stored[at] + stored[at + 1] * width))
                at += 2
                x = len(data) % width
            else:  # pixels as they are
                count = min(wanted - len(data), value)
                size = (count + 1) // 2 if half_bytes else count
                part = stored[at : at + size]
                at += len(part)
                data += b"".join([_HALVES[byte] for byte in part])[:count] if half_bytes else part
                if len(part) < size or len(data) == wanted:
                    break
                x += value
                at += (position + at) % 2
        self.set_as_raw(data, "L" if self.mode in ("1", "L") else "P", (0, self.args[-1]))
        return -1, 0


Image.register_decoder("sgn_qoi", _QoiDecoder)
Image.register_decoder("sgn_ppm", _PpmDecoder)
Image.register_decoder("sgn_ppm_plain", _PlainPpmDecoder)
Image.register_decoder("sgn_dds_rgb", _DdsDecoder)
Image.register_decoder("sgn_bmp_rle", _BmpRleDecoder)
