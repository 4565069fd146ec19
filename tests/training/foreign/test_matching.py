"""Tensors whose shapes differ in their number of axes are told, and nothing fails on them."""

import pytest
import torch

from training.foreign.matching import match


@pytest.mark.parametrize("arch", ["wrn-10-1", "timm:convnext_tiny"], ids=["as they are", "that may be reshaped"])
@pytest.mark.parametrize(("there", "here"), [((1,), ()), ((), (1,)), ((), (5,))])
def test_numbers_without_axes(arch: str, there: tuple[int, ...], here: tuple[int, ...]) -> None:
    fit = match({"a": torch.zeros(there)}, arch, {"a": torch.zeros(here)})
    assert fit.other_shapes == {"a": (there, here)}
    assert fit.problems == 1
    assert fit.logits_in_file is None


def test_the_number_of_logits_may_alone_differ() -> None:
    fit = match(
        {"a": torch.zeros(10, 4), "b": torch.zeros(10)}, "wrn-10-1", {"a": torch.zeros(7, 4), "b": torch.zeros(7)}
    )
    assert fit.logits_in_file == 10
