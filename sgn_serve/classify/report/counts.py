"""Count right and wrong answers."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.formats import format_of

BINS = 20
"""Bins of the histogram, from 0 to 1 bit."""


@dataclass
class Counts:
    """Count answers, by their true and their given label.

    Attributes:
        confusion: Pictures by (true label, given label).
        errors: Pictures with a known label and an error instead of an answer, by its code.
        unlabelled: Rows whose path has no true label.
        unused: True labels whose path has no row.
        disagreement: Pictures by right or wrong, and by bin of their disagreement.
        others: Labels that the model ranked below an answer which differs from them in case or white space alone.
    """

    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unlabelled: int = 0
    unused: int = 0
    disagreement: dict[bool, list[int]] = field(default_factory=lambda: {True: [0] * BINS, False: [0] * BINS})
    others: set[str] = field(default_factory=set)

    @property
    def answered(self) -> int:
        """Number of pictures with an answer and a true label."""
        return self.confusion.total()

    @property
    def right(self) -> int:
        """Number of those that are right."""
        return sum(count for (true, given), count in self.confusion.items() if true == given)

    def labels(self) -> list[str]:
        """Return all labels that were given or are true, sorted."""
        return sorted({label for pair in self.confusion for label in pair})

    def misspelt(self) -> Counter[tuple[str, str]]:
        """Return the wrong answers that differ from the true label in case or white space alone.

        A true label that the model gives, or ranks below, is spelt as the model spells it, so it is none of them.
        """
        given = {label for _, label in self.confusion} | self.others
        pairs = {pair: count for pair, count in self.confusion.items() if pair[0] not in given}
        return Counter({(one, two): count for (one, two), count in pairs.items() if _plain(one) == _plain(two)})

    def by_class(self) -> dict[str, tuple[int, int]]:
        """Return, by label, how many pictures of a class are right, and how many there are."""
        pictures: Counter[str] = Counter()
        for (true, _), count in self.confusion.items():
            pictures[true] += count
        return {label: (self.confusion[label, label], pictures[label]) for label in self.labels()}


def _plain(label: str) -> str:
    return " ".join(label.split()).casefold()


def count_answers(answers: Path, truth: Path) -> Counts:
    """Compare the rows of a file of answers with the true labels, row by row.

    Raises:
        ClassifyError: One of the files is not what it should be, or they have no path in common.
        OSError: One of them cannot be read.
    """
    if answers.exists() and truth.exists() and truth.samefile(answers):
        raise ClassifyError(f"{truth}: the answers themselves, so all would be right; name a file of the true labels")
    true_labels = read_truth(truth)
    counts = Counts()
    used: set[str] = set()
    example = ""
    for path, label, bits, code, top in _rows(answers):
        true = true_labels.get(path)
        if true is None:
            counts.unlabelled += 1
            example = example or path
            continue
        used.add(path)
        if code is not None or label is None:
            counts.errors[code or "unknown"] += 1
            continue
        counts.confusion[true, label] += 1
        if true != label and _plain(true) == _plain(label):
            counts.others.update(_labels(top))
        if bits is not None:
            counts.disagreement[true == label][min(int(bits * BINS), BINS - 1)] += 1
    counts.unused = len(true_labels) - len(used)
    if not used:
        raise ClassifyError(
            f"{truth}: none of its paths is in {answers}, where one is {example!r}; write them in the same way"
        )
    return counts


def read_truth(path: Path) -> dict[str, str]:
    """Return the true label of each path of a CSV file with the columns path and label. An empty label is none.

    Raises:
        ClassifyError: It has no such columns, or one of them twice, or a path has two labels.
        OSError: It cannot be read.
    """
    labels: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise ClassifyError(
                    f"{path}: it has no columns path and label, but {', '.join(reader.fieldnames or ()) or 'none'}; "
                    "name them in the first line, with commas between"
                )
            for column in ("path", "label"):
                if list(reader.fieldnames or ()).count(column) > 1:
                    raise ClassifyError(f"{path}: it has several columns {column!r}; keep one, or rename the others")
            for row in reader:
                name, label = row["path"], row["label"]
                if not label:
                    continue
                if labels.setdefault(name, label) != label:
                    raise ClassifyError(f"{path}: {name} has the labels {labels[name]} and {label}; keep one of them")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ClassifyError(f"{path}: it is no CSV file in UTF-8 ({error}); save it as one") from None
    if not labels:
        raise ClassifyError(f"{path}: it has no rows; give a path and a label in each")
    return labels


_COLUMNS = ("path", "label", "disagreement", "error_code", "top_k")


def _rows(answers: Path) -> Iterator[tuple[str, str | None, float | None, str | None, Any]]:
    for path, label, bits, code, top in format_of(answers).read(answers, _COLUMNS):
        try:
            yield path, label, None if bits is None else float(bits), code, top
        except ValueError:
            raise ClassifyError(
                f"{answers}: {bits!r} is no disagreement; name a file that sgn classify wrote"
            ) from None


def _labels(top: Any) -> Iterator[str]:
    """Yield the labels of a row's top_k, which CSV holds as JSON."""
    try:
        for one in json.loads(top) if isinstance(top, str) else top or ():
            yield one["label"]
    except (ValueError, KeyError, TypeError):
        return  # a row that somebody has changed
