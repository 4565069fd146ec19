"""Draw a confusion matrix and a histogram, with Pillow alone."""

from collections import Counter
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (150, 150, 150)
_RIGHT, _WRONG = (38, 110, 180), (200, 80, 40)
_FONT_SIZE = 14
MOST_LABELS = 4096
"""Most labels of a confusion matrix. Its picture has a pixel or more for each pair of labels."""
_NUMBERED = 30
"""Most classes whose cells show their numbers and whose labels are written."""
_CELL, _SMALL_CELLS = 44, 900
_LONGEST_LABEL = 20
_MARGIN = 16
_SHOWN_SHARE = 0.4
"""Share of a row above which a cell is so dark that its number is white."""


def draw_confusion(confusion: Mapping[tuple[str, str], int], labels: Sequence[str]) -> Image.Image:
    """Return a confusion matrix: a row for each true label, a column for each given one.

    A cell is the darker the larger its share of the row. The diagonal is blue, mistakes are orange.

    Args:
        confusion: Pictures by (true label, given label).
        labels: The labels, in order, MOST_LABELS at most.
    """
    written = len(labels) <= _NUMBERED
    cell = _CELL if written else max(1, _SMALL_CELLS // len(labels))
    font = ImageFont.load_default(_FONT_SIZE)
    names = [label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…" for label in labels]
    room = int(max(font.getlength(name) for name in names)) + _MARGIN if written else _MARGIN
    title = 2 * _FONT_SIZE + _MARGIN
    side = cell * len(labels)
    width = max(room + side + _MARGIN, int(font.getlength(_TITLE)) + 2 * _MARGIN)
    picture = Image.new("RGB", (width, title + side + room), _WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN // 2), _TITLE, _BLACK, font)
    totals: Counter[str] = Counter()
    for (true, _), count in confusion.items():
        totals[true] += count
    places = {label: place for place, label in enumerate(labels)}
    for (true, given), count in confusion.items():
        share = count / totals[true]
        left, top = room + cell * places[given], title + cell * places[true]
        colour = _mix(_RIGHT if true == given else _WRONG, share)
        draw.rectangle((left, top, left + cell - 1, top + cell - 1), colour)
        if written:
            middle = (left + cell / 2, top + cell / 2)
            draw.text(middle, f"{count}", _WHITE if share > _SHOWN_SHARE else _BLACK, font, anchor="mm")
    draw.rectangle((room, title, room + side, title + side), outline=_GREY)
    if written:
        for place, name in enumerate(names):
            draw.text((room - 6, title + cell * (place + 0.5)), name, _BLACK, font, anchor="rm")
            turned = Image.new("RGB", (room, cell), _WHITE)
            ImageDraw.Draw(turned).text((room - 6, cell / 2), name, _BLACK, font, anchor="rm")
            picture.paste(turned.rotate(90, expand=True), (room + cell * place, title + side + 1))
    return picture


_TITLE = "true label (rows), given label (columns)"
_BAR, _HEIGHT = 28, 260


def draw_histogram(right: Sequence[int], wrong: Sequence[int]) -> Image.Image:
    """Return a histogram of the disagreement: right answers blue, wrong ones orange above them.

    A bar is as high as the share of its bin among right answers, or among wrong ones: there are far more of the former.

    Args:
        right: Right answers in each bin, from 0 to 1 bit.
        wrong: Wrong ones.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    left, top, bottom = 3 * _MARGIN, 4 * _MARGIN, 3 * _MARGIN
    picture = Image.new("RGB", (left + _BAR * len(right) + _MARGIN, top + _HEIGHT + bottom), _WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 4), f"blue: share of the {sum(right):,} right answers", _RIGHT, font)
    draw.text((_MARGIN, 6 + _FONT_SIZE), f"orange: share of the {sum(wrong):,} wrong answers", _WRONG, font)
    base = top + _HEIGHT
    for counts, colour, shift in ((right, _RIGHT, 0), (wrong, _WRONG, _BAR // 2)):
        total = max(1, sum(counts))
        for place, count in enumerate(counts):
            if count:
                height = max(1, round(_HEIGHT * count / total))
                begin = left + _BAR * place + shift
                draw.rectangle((begin, base - height, begin + _BAR // 2 - 2, base - 1), colour)
    draw.line((left, base, left + _BAR * len(right), base), _BLACK)
    draw.line((left, top, left, base), _BLACK)
    draw.text((left - 4, top), "100 %", _BLACK, font, anchor="rm")
    draw.text((left, base + 4), "0", _BLACK, font)
    draw.text((left + _BAR * len(right), base + 4), "1", _BLACK, font, anchor="ra")
    middle = left + _BAR * len(right) / 2
    draw.text((middle, base + 4), "disagreement of block on and block off, bits", _BLACK, font, anchor="ma")
    return picture


def _mix(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    """Return a colour between white and the given one. The smallest share is still seen."""
    weight = 0.12 + 0.88 * share
    red, green, blue = (round(255 + weight * (value - 255)) for value in colour)
    return red, green, blue
