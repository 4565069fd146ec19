"""Work out from the logits what the API answers."""

import numpy as np
from numpy.typing import NDArray

from sgn_serve.inference.classifier import Logits, softmax
from sgn_serve.inference.graph import Description
from sgn_serve.records import AUTO, Prediction, mode_of


def predict(logits: Logits, description: Description, top_k: int, max_disagreement: float | None = None) -> Prediction:
    """Return the answer to the first picture of a batch.

    Args:
        logits: Logits of the batch, (N, classes).
        description: Description of the graph that gave them.
        top_k: Classes to list, at most.
        max_disagreement: Disagreement, in bits, above which the picture is suspicious. None for no such verdict.
    """
    auto = logits.second_pass is not None
    both = logits.corrected is not None and (logits.second_pass is None or bool(logits.second_pass[0]))
    rows = softmax(
        np.stack([logits.plain[0], logits.corrected[0]]) if both and logits.corrected is not None else logits.plain[:1]
    )
    plain, answer = rows[0], rows[-1]
    ranked = [_class(answer, index, description) for index in likeliest(answer, top_k).tolist()]
    bits = float(disagreement_bits(answer, plain)) if both else None
    # Validate plain values at once: models within models would be made one by one, at twice the cost.
    return Prediction.model_validate(
        {
            **ranked[0],
            "top_k": ranked,
            "self_gradient": both,
            "mode": mode_of(AUTO if auto else both),
            "plain": _class(plain, int(plain.argmax()), description) if both else None,
            "disagreement": bits,
            "suspicious": None if bits is None or max_disagreement is None else bits > max_disagreement,
            "model": description.sha256,
        }
    )


def _class(probabilities: NDArray[np.float64], index: int, description: Description) -> dict[str, str | int | float]:
    """Return the fields of a ClassProbability."""
    return {"label": description.class_names[index], "index": index, "probability": float(probabilities[index])}


def likeliest(probabilities: NDArray[np.float64], top_k: int) -> NDArray[np.intp]:
    """Return the indices of the likeliest classes of each distribution, (..., classes), the likeliest first."""
    # A stable sort of the negated values: among equals the lower index comes first, as in argmax.
    return np.argsort(-probabilities, axis=-1, kind="stable")[..., :top_k]


def disagreement_bits(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Jensen-Shannon divergences of distributions, (..., classes) each, in bits, (...).

    One is 0 where they are equal, and 1 where no class is possible in both.

    Source: Lin, Divergence Measures Based on the Shannon Entropy (1991), with the logarithm to base 2.
    """
    three = np.stack([first, second, (first + second) / 2])
    logarithms = np.log2(three, out=np.zeros_like(three), where=three > 0)
    first_entropy, second_entropy, middle_entropy = -(three * logarithms).sum(axis=-1)
    bits: NDArray[np.float64] = middle_entropy - (first_entropy + second_entropy) / 2
    return bits.clip(0.0, 1.0)  # rounding may leave the interval by a hair
