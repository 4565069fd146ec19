"""Write the report: a page for people, the same figures as JSON, and the pictures."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.formats import write_whole
from sgn_serve.classify.report.counts import BINS, Counts, count_answers
from sgn_serve.classify.report.pictures import MOST_LABELS, draw_confusion, draw_histogram
from sgn_serve.common.confidence import interval_95
from sgn_serve.common.error_text import say, system_errors_as
from sgn_serve.common.markdown import table

_WORST = 20
"""Most frequent mistakes that the page lists."""


@system_errors_as(ClassifyError, "correct the path")
def write_report(answers: Path, truth: Path, folder: Path) -> str:
    """Write report.md, report.json, confusion.png and, for a network with a block, disagreement.png.

    There is no confusion.png of more than MOST_LABELS labels.

    Args:
        answers: The output of sgn classify.
        truth: A CSV file with the columns path and label.
        folder: Where to write. It is made if it is not there.

    Returns:
        A line about the result.

    Raises:
        ClassifyError: See count_answers. Or a file cannot be read or written.
    """
    counts = count_answers(answers, truth)
    folder.mkdir(parents=True, exist_ok=True)
    figures = summarise(counts)
    if _has_matrix(figures):
        _save(draw_confusion(counts.confusion, counts.labels()), folder / "confusion.png")
    right, wrong = counts.disagreement[True], counts.disagreement[False]
    if sum(right) + sum(wrong):
        _save(draw_histogram(right, wrong), folder / "disagreement.png")
    write_whole(folder / "report.json", json.dumps(figures, indent=1, ensure_ascii=False).encode() + b"\n")
    write_whole(folder / "report.md", _page(figures, counts, answers).encode())
    if note := _misspelt(counts):
        say(f"note: {note}")
    accuracy = figures["accuracy"]
    shown = "no picture has an answer" if accuracy is None else f"accuracy {_percent(accuracy)}"
    return f"{folder / 'report.md'}: {shown} of {_pictures(counts.answered)}"


def summarise(counts: Counts) -> dict[str, Any]:
    """Return the figures of a report. Shares are from 0 to 1; None where there is nothing to share."""
    classes = {
        label: {"pictures": pictures, "right": right, **_share(right, pictures)}
        for label, (right, pictures) in counts.by_class().items()
    }
    answered = counts.answered
    return {
        "pictures": answered,
        "right": counts.right,
        **_share(counts.right, answered),
        "errors": dict(sorted(counts.errors.items())),
        "rows_without_label": counts.unlabelled,
        "labels_without_row": counts.unused,
        "classes": classes,
        "confusion": [
            {"true": true, "given": given, "pictures": count}
            for (true, given), count in sorted(counts.confusion.items())
        ],
        "disagreement": {
            "bin_edges": [place / BINS for place in range(BINS + 1)],
            "right": counts.disagreement[True],
            "wrong": counts.disagreement[False],
        },
    }


def _misspelt(counts: Counts) -> str:
    """Return a note about answers that differ from the true label in case or white space alone, "" without any."""
    pairs = counts.misspelt()
    if not pairs:
        return ""
    (true, given), _ = pairs.most_common(1)[0]
    return (
        f"{pairs.total():,} of the wrong answers differ from the true label in case or white space alone, such as "
        f"{given!r} from {true!r}: write true labels as the model names them"
    )


def _has_matrix(figures: dict[str, Any]) -> bool:
    """Return whether the confusion matrix is drawn."""
    return 0 < len(figures["classes"]) <= MOST_LABELS


def _share(right: int, pictures: int) -> dict[str, Any]:
    if not pictures:
        return {"accuracy": None, "interval_95": None}
    return {"accuracy": right / pictures, "interval_95": list(interval_95(right, pictures))}


def _page(figures: dict[str, Any], counts: Counts, answers: Path) -> str:
    lines = [f"# Answers against true labels: {answers.name}", ""]
    if figures["accuracy"] is not None:
        low, high = figures["interval_95"]
        lines += [
            f"Accuracy: **{_percent(figures['accuracy'])}** ({counts.right:,} of {_pictures(counts.answered)}; "
            f"95 % interval {_percent(low)} to {_percent(high)}, Wilson).",
            "",
        ]
    notes = [f"{_counted(count, 'picture')} the error `{code}`" for code, count in figures["errors"].items()]
    notes += [f"{_counted(counts.unlabelled, 'row')} no true label"] if counts.unlabelled else []
    notes += [f"{_counted(counts.unused, 'true label')} no row"] if counts.unused else []
    true, given = ({pair[which] for pair in counts.confusion} for which in (0, 1))
    if misspelt := _misspelt(counts):
        notes.append(misspelt)
    elif counts.answered and not true & given:
        notes.append("no true label is one that the model gave: they should be written as the model names them")
    if counts.answered and not _has_matrix(figures):
        notes.append(
            f"the {len(figures['classes']):,} labels are more than the {MOST_LABELS:,} that a matrix is drawn "
            "for; report.json has its counts"
        )
    if notes:
        lines += ["Notes:", "", *(f"- {note}." for note in notes), ""]
    classes = []
    for label, row in figures["classes"].items():
        shown = "–", "–"
        if row["accuracy"] is not None:
            shown = _percent(row["accuracy"]), " to ".join(_percent(bound) for bound in row["interval_95"])
        classes.append((_cell(label), f"{row['pictures']:,}", *shown))
    lines.append(table(("class", "pictures", "accuracy", "95 % interval"), classes, "lrrr"))
    mistakes = [pair for pair in counts.confusion.most_common() if pair[0][0] != pair[0][1]][:_WORST]
    if mistakes:
        rows = [(_cell(true), _cell(given), f"{count:,}") for (true, given), count in mistakes]
        lines += ["", table(("true", "given", "pictures"), rows, "llr")]
    if _has_matrix(figures):
        lines += ["", "![confusion matrix](confusion.png)"]
    if any(sum(bins) for bins in counts.disagreement.values()):
        lines += ["", "![disagreement of block on and block off](disagreement.png)"]
    return "\n".join(lines) + "\n"


def _counted(count: int, what: str) -> str:
    return f"1 {what} has" if count == 1 else f"{count:,} {what}s have"


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _save(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG")
    write_whole(path, content.getvalue())
