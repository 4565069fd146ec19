"""Make rows of logits, for a whole batch at once: the same figures as serving.answers makes for one picture."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sgn_serve.inference.classifier import Logits, softmax
from sgn_serve.records import Mode
from sgn_serve.serving.answers import disagreement_bits, likeliest

NO_ANSWER = "internal_error"


class Row(NamedTuple):
    """The answer to one input, or why it has none. The fields are the columns of the output, in this order.

    Attributes:
        path: The input.
        label: The likeliest class. None where there is no answer, as in all fields but path, mode and error_*.
        index: Its position among the network's outputs.
        probability: Its softmax probability.
        top_k: The likeliest classes: label, index and probability each.
        plain_label: The likeliest class with the block off, where the block was on.
        disagreement: Jensen-Shannon divergence of block on and block off in bits, where the block was on.
        mode: The state of the block that was asked for: on, off or auto.
        error_code: A constant for programs, None where there is an answer.
        error_message: A sentence for people.
    """

    path: str
    label: str | None
    index: int | None  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    probability: float | None
    top_k: list[dict[str, Any]] | None
    plain_label: str | None
    disagreement: float | None
    mode: str
    error_code: str | None
    error_message: str | None


COLUMNS = Row._fields


def error_row(path: str, mode: Mode, code: str, message: str) -> Row:
    """Return the row of an input without an answer."""
    return Row(path, None, None, None, None, None, None, mode, code, message)


def answer_rows(paths: Sequence[str], logits: Logits, class_names: Sequence[str], top_k: int, mode: Mode) -> list[Row]:
    """Return the rows of a batch.

    Args:
        paths: Names of the inputs in the rows, N of them.
        logits: Logits of the batch, (N, classes).
        class_names: A name for each logit.
        top_k: Classes to list, at most.
        mode: The state that was asked for.
    """
    plain = softmax(logits.plain)
    answer = plain if logits.corrected is None else softmax(logits.corrected)
    ranked = likeliest(answer, top_k)
    listed = np.take_along_axis(answer, ranked, axis=1).tolist()
    best_plain = plain.argmax(axis=1).tolist()
    bits = disagreement_bits(answer, plain).tolist()
    both: list[bool] = [logits.corrected is not None] * len(paths)
    if logits.second_pass is not None:
        both = [bool(ran) for ran in logits.second_pass]
    is_number = np.isfinite(np.concatenate([answer, plain], axis=1)).all(axis=1, keepdims=True)
    rows = []
    for number, (path, indices) in enumerate(zip(paths, ranked.tolist(), strict=True)):
        if not is_number[number, 0]:
            rows.append(error_row(path, mode, NO_ANSWER, "the network answers with values that are no numbers"))
            continue
        probabilities = listed[number]
        top = [
            {"label": class_names[index], "index": index, "probability": probability}
            for index, probability in zip(indices, probabilities, strict=True)
        ]
        plain_label = class_names[best_plain[number]] if both[number] else None
        rows.append(
            Row(
                path,
                class_names[indices[0]],
                indices[0],
                probabilities[0],
                top,
                plain_label,
                bits[number] if both[number] else None,
                mode,
                None,
                None,
            )
        )
    return rows
