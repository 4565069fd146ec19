"""Write picture files of kinds that Pillow reads and does not write, from their formats' specifications."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.sgn_serve.sample_pictures import encode

Array = NDArray[np.integer]


def write_tga(
    rows: NDArray[np.uint8],
    kind: int,
    origin: int = 0x20,
    rle: bool = False,
    alpha_bits: int = 0,
    palette: tuple[int, int, bytes] = (0, 0, b""),
) -> bytes:
    """Write a TGA.

    Args:
        rows: Bytes of the pixels as they are seen, (H, W, bytes a pixel).
        kind: 1 with a palette, 2 in colour, 3 grey.
        origin: 0x20 top left, 0 bottom left, 0x10 bottom right, 0x30 top right.
        rle: Whether to run-length encode.
        alpha_bits: Bits of a pixel that are said to be alpha.
        palette: Index of the first colour, bits of a colour, colours.
    """
    height, width, size = rows.shape
    stored = rows if origin & 0x20 else rows[::-1]
    stored = stored[:, ::-1] if origin & 0x10 else stored
    pixels = stored.reshape(-1, size)
    data = pixels.tobytes()
    if rle:
        # Packets of one to 128 pixels, runs and others in turn, which cross the ends of rows.
        parts, at = [], 0
        while at < len(pixels):
            run = 1
            while run < 128 and at + run < len(pixels) and (pixels[at + run] == pixels[at]).all():
                run += 1
            if run > 1:
                parts.append(bytes([0x80 | (run - 1)]) + pixels[at].tobytes())
            else:
                run = min(37, len(pixels) - at)
                parts.append(bytes([run - 1]) + pixels[at : at + run].tobytes())
            at += run
        data = b"".join(parts)
    first, bits, colours = palette
    count = len(colours) // max((bits + 7) // 8, 1)
    header = struct.pack("<BBBHHB", 3, kind == 1, kind | (8 if rle else 0), first, count, bits)
    header += struct.pack("<HHHHBB", 0, 0, width, height, 8 * size, origin | alpha_bits)
    return header + b"id." + colours + data


def with_tga_extension(tga: bytes, alpha_kind: int) -> bytes:
    """Return a TGA with the extension area of version 2, which says what alpha means."""
    area = struct.pack("<H", 495) + bytes(492) + bytes([alpha_kind])
    return tga + area + struct.pack("<LL", len(tga), 0) + b"TRUEVISION-XFILE.\0"


DDS_LETTERS, DDS_RGB, DDS_GREY, DDS_PALETTE, DDS_ALPHA = 4, 0x40, 0x20000, 0x20, 1


def write_dds(
    size: tuple[int, int],
    data: bytes,
    flags: int,
    letters: bytes = bytes(4),
    masks: Sequence[int] = (),
    extension: tuple[int, int, int] | None = None,
) -> bytes:
    """Write a DDS.

    Args:
        size: (height, width).
        data: Palette and pixels.
        flags: Kind of pixels, DDS_*.
        letters: Name of a compression.
        masks: Bits of a pixel, and masks of its channels.
        extension: DXGI's number of a kind of pixels, resource's dimensions, meaning of alpha.
    """
    bits, *channels = [*masks, 0, 0, 0, 0, 0][:5]
    header = struct.pack("<4s7L44x", b"DDS ", 124, 0x1007, *size, 0, 0, 0)
    header += struct.pack("<LL4s5L", 32, flags, letters, bits, *channels) + struct.pack("<5L", 0x1000, 0, 0, 0, 0)
    if extension is not None:
        kind, dimensions, alpha = extension
        header += struct.pack("<5L", kind, dimensions, 0, 1, alpha)
    return header + data


def blocks_of(pixels: Array) -> NDArray[np.int64]:
    """Return the 4 x 4 blocks of (H, W, channels) as (blocks, 16, channels)."""
    height, width, channels = pixels.shape
    cut = pixels.reshape(height // 4, 4, width // 4, 4, channels).transpose(0, 2, 1, 3, 4)
    return cut.reshape(-1, 16, channels).astype(np.int64)


def picture_of(blocks: Array, height: int, width: int) -> Array:
    """Return what blocks_of made blocks of."""
    cut = np.asarray(blocks).reshape(height // 4, width // 4, 4, 4, -1).transpose(0, 2, 1, 3, 4)
    return cut.reshape(height, width, -1)


def _nearest(levels: Array, block: Array) -> Array:
    return np.abs(np.asarray(levels)[None] - block[:, None]).sum(axis=2).argmin(axis=1)


def _packed(numbers: Iterable[int], bits: int) -> int:
    return sum(int(number) << (bits * index) for index, number in enumerate(numbers))


def bc1_colours(block: Array, see_through: Array | None = None) -> tuple[bytes, Array]:
    """Return the eight bytes of a BC1 block, and its colours (16, 3); 255 where it is seen through.

    Args:
        block: (16, 3).
        see_through: Where it has no colour. None for a block of four colours.
    """

    def code(colour: Array) -> int:
        red, green, blue = (int(value) for value in colour)
        return (red >> 3) << 11 | (green >> 2) << 5 | blue >> 3

    def shown(number: int) -> Array:
        red, green, blue = number >> 11, number >> 5 & 63, number & 31
        return np.array([red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2])

    order = block.sum(axis=1).argsort()
    low, high = sorted((code(block[order[0]]), code(block[order[-1]])))
    if see_through is None:
        first, second = (high, low) if high != low else (high, max(high - 1, 0))
        ends = shown(first), shown(second)
        levels = np.stack([*ends, (2 * ends[0] + ends[1]) // 3, (ends[0] + 2 * ends[1]) // 3])
        index = _nearest(levels, block) if first > second else np.zeros(16, int)
    else:
        first, second = low, high
        ends = shown(first), shown(second)
        levels = np.stack([*ends, (ends[0] + ends[1]) // 2, np.full(3, 255)])
        index = np.where(see_through, 3, _nearest(levels[:3], block))
    return struct.pack("<HHL", first, second, _packed(index, 2)), levels[index]


def bc4_values(block: Array) -> tuple[bytes, Array]:
    """Return the eight bytes of a BC4 block, and its values (16,)."""
    high, low = int(block.max()), int(block.min())
    if high == low:
        return struct.pack("<BB6x", high, low), np.full(16, high)
    levels = np.array([high, low, *(((7 - step) * high + step * low) / 7 for step in range(1, 7))]).round().astype(int)
    index = _nearest(levels[:, None], block.reshape(16, 1))
    return struct.pack("<BB", high, low) + _packed(index, 3).to_bytes(6, "little"), levels[index]


def bc7_colours(block: Array) -> tuple[bytes, Array]:
    """Return the 16 bytes of a BC7 block in mode 6, and its colours (16, 4).

    Args:
        block: (16, 4).
    """
    weights = np.array([0, 4, 9, 13, 17, 21, 26, 30, 34, 38, 43, 47, 51, 55, 60, 64])
    order = block.sum(axis=1).argsort()
    ends = [block[order[0]] >> 1, block[order[-1]] >> 1]
    full = [ends[0] << 1, (ends[1] << 1) | 1]
    levels = ((64 - weights[:, None]) * full[0] + weights[:, None] * full[1] + 32) >> 6
    index = _nearest(levels, block)
    if index[0] > 7:  # the first index has three bits
        ends, full = ends[::-1], full[::-1]
        parities, index = (1, 0), 15 - index
        levels = ((64 - weights[:, None]) * full[0] + weights[:, None] * full[1] + 32) >> 6
    else:
        parities = (0, 1)
    number, at = 1 << 6, 7
    for channel in range(4):
        for end in ends:
            number |= int(end[channel]) << at
            at += 7
    number |= parities[0] << at | parities[1] << (at + 1)
    number |= int(index[0]) << (at + 2) | _packed(index[1:], 4) << (at + 5)
    return number.to_bytes(16, "little"), levels[index]


@dataclass(frozen=True)
class Component:
    """One component of a JPEG 2000.

    Attributes:
        values: (H, W), reduced by `step`.
        depth: Bits of a sample.
        step: How many pixels across and down share a sample.
    """

    values: Array
    depth: int = 8
    step: tuple[int, int] = (1, 1)


def write_codestream(components: Sequence[Component], size: tuple[int, int], signed: bool = False) -> bytes:
    """Write a JPEG 2000 codestream without wavelets, of any depths and samplings.

    Pillow encodes each component by itself at 8 or 16 bits. Their packets follow each other in the only tile.

    Args:
        components: The components in their order.
        size: (height, width).
        signed: Whether the samples are said to be signed.
    """
    wide = max(component.depth for component in components) > 8
    full, kinds, packets, head = (16 if wide else 8), b"", b"", b""
    for component in components:
        # The decoder shifts the samples by half of the range that the header tells.
        shifted = component.values.astype(np.int64) + (1 << (full - 1)) - (1 << (component.depth - 1))
        picture = Image.fromarray(shifted.astype(np.uint16 if wide else np.uint8))
        alone = encode(picture, "JPEG2000", no_jp2=True, num_resolutions=1, mct=0)
        at, head = 2, b""
        while alone[at : at + 2] != b"\xff\x90":
            length = 2 + struct.unpack_from(">H", alone, at + 2)[0]
            head += alone[at : at + length] if alone[at + 1] in (0x52, 0x5C) else b""
            at += length
        packets += alone[at + 14 : -2]
        kinds += bytes([(component.depth - 1) | (0x80 if signed else 0), component.step[1], component.step[0]])
    height, width = size
    sizes = struct.pack(">HHLLLLLLLLH", 38 + len(kinds), 0, width, height, 0, 0, width, height, 0, 0, len(components))
    tile = struct.pack(">HHHLBB", 0xFF90, 10, 0, 14 + len(packets), 0, 1) + b"\xff\x93" + packets
    return b"\xff\x4f\xff\x51" + sizes + kinds + head + tile + b"\xff\xd9"


def box(name: bytes, content: bytes) -> bytes:
    """Return a box of a JP2, AVIF or HEIC file."""
    return struct.pack(">L4s", 8 + len(content), name) + content


def write_jp2(codestream: bytes, colours: bytes, more: bytes = b"") -> bytes:
    """Write a JP2 file.

    Args:
        codestream: See write_codestream.
        colours: Content of its colr box.
        more: Further boxes of its header.
    """
    width, height = struct.unpack_from(">LL", codestream, 8)
    (count,) = struct.unpack_from(">H", codestream, 40)
    header = box(b"ihdr", struct.pack(">LLHBBBB", height, width, count, codestream[42], 7, 0, 0))
    return (
        box(b"jP  ", b"\r\n\x87\n")
        + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
        + box(b"jp2h", header + box(b"colr", colours) + more)
        + box(b"jp2c", codestream)
    )


def enumerated(number: int) -> bytes:
    """Return the content of a colr box that names a colour space by its number."""
    return struct.pack(">BBBL", 1, 0, 0, number)


def with_turn(file: bytes, angle: int | None, mirror: int | None) -> bytes:
    """Return an AVIF or HEIC file with the properties that turn and mirror its picture.

    Args:
        file: One without them, whose primary item has the properties of the first entry of its ipma box.
        angle: Quarters of a turn, against the clock.
        mirror: 0 exchanges top and bottom, 1 left and right.
    """
    added = [] if angle is None else [box(b"irot", bytes([angle]))]
    added += [] if mirror is None else [box(b"imir", bytes([mirror]))]

    def split(data: bytes) -> list[tuple[bytes, bytes]]:
        boxes, at = [], 0
        while at < len(data):
            size, name = struct.unpack_from(">L4s", data, at)
            boxes.append((name, data[at + 8 : at + size]))
            at += size
        return boxes

    def properties(data: bytes) -> bytes:
        parts = dict(split(data))
        known = len(split(parts[b"ipco"]))
        entry = parts[b"ipma"]
        count = entry[10]
        links = bytes(known + 1 + index | 0x80 for index in range(len(added)))
        entry = entry[:10] + bytes([count + len(added)]) + entry[11 : 11 + count] + links + entry[11 + count :]
        return box(b"ipco", parts[b"ipco"] + b"".join(added)) + box(b"ipma", entry)

    grown = sum(map(len, added)) + len(added)

    def places(data: bytes) -> bytes:
        """Move the offsets in an iloc box of version 0 or 1 with 32-bit numbers."""
        version, sizes = data[0], data[4]
        assert sizes == 0x44, "32-bit offsets and lengths"
        assert data[5] >> 4 in (0, 4)
        base = data[5] >> 4
        (items,) = struct.unpack_from(">H", data, 6)
        moved, at = bytearray(data), 8
        for _ in range(items):
            method = struct.unpack_from(">H", data, at + 2)[0] & 15 if version else 0
            at += 2 + (2 if version else 0) + 2 + base
            (extents,) = struct.unpack_from(">H", data, at)
            at += 2
            for _ in range(extents):
                if method == 0:
                    struct.pack_into(">L", moved, at, struct.unpack_from(">L", data, at)[0] + grown)
                at += 8
        return bytes(moved)

    made = b""
    for name, content in split(file):
        if name == b"meta":
            inner = [(kind, part) for kind, part in split(content[4:])]
            parts = {b"iprp": properties, b"iloc": places}
            content = content[:4] + b"".join(box(kind, parts.get(kind, bytes)(part)) for kind, part in inner)
        made += box(name, content)
    return made


def turned(rgb: NDArray[np.uint8], angle: int | None, mirror: int | None) -> NDArray[np.uint8]:
    """Return what with_turn has readers make of a picture. Source: ISO/IEC 23008-12, sections 6.5.10 and 6.5.12."""
    shown = np.rot90(rgb, angle or 0)
    return shown if mirror is None else shown[::-1] if mirror == 0 else shown[:, ::-1]


def write_ico(pictures: Sequence[tuple[tuple[int, int], int, bytes]]) -> bytes:
    """Write an ICO file.

    Args:
        pictures: The (height, width), bits a pixel, and PNG file or bitmap of each.
    """
    entries, data = b"", b""
    for (height, width), bits, content in pictures:
        place = 6 + 16 * len(pictures) + len(data)
        entries += struct.pack("<BBBBHHLL", width % 256, height % 256, 0, 0, 1, bits, len(content), place)
        data += content
    return struct.pack("<HHH", 0, 1, len(pictures)) + entries + data


def icon_bitmap(rows: NDArray[np.uint8], bits: int, mask: NDArray[np.bool_], palette: bytes = b"") -> bytes:
    """Write a bitmap of an ICO file.

    Args:
        rows: Bytes of each row, from the top.
        bits: A pixel's.
        mask: (H, W), where nothing is seen.
        palette: Blue, green, red and zero of each colour.
    """
    height, width = mask.shape

    def stored(lines: NDArray[np.uint8]) -> bytes:
        return b"".join(line.tobytes() + bytes(-line.size % 4) for line in lines[::-1])

    header = struct.pack("<LllHHLLllLL", 40, width, 2 * height, 1, bits, 0, 0, 0, 0, len(palette) // 4, 0)
    return header + palette + stored(rows) + stored(np.packbits(mask, axis=1))
