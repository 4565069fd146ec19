"""Tensors whose shapes differ in their number of axes are told, and nothing fails on them."""

import pytest
import torch

from tests.training.foreign.references import WideReference
from training.foreign.guessing import guess_architecture, state_of
from training.foreign.matching import match
from training.foreign.spellings import WIDE_RESNET


@pytest.mark.parametrize("arch", ["wrn-10-1", "timm:convnext_tiny"], ids=["as they are", "that may be reshaped"])
@pytest.mark.parametrize(("there", "here"), [((1,), ()), ((), (1,)), ((), (5,))])
def test_numbers_without_axes(arch: str, there: tuple[int, ...], here: tuple[int, ...]) -> None:
    fit = match({"a": torch.zeros(there)}, arch, {"a": torch.zeros(here)})
    assert fit.other_shapes == {"a": (there, here)}
    assert fit.problems == 1
    assert fit.logits_in_file is None


@pytest.mark.parametrize(("blocks", "width", "arch"), [(4, 10, "wrn-28-10"), (5, 20, "wrn-34-20")])
def test_robustbenchs_wide_networks_are_guessed_and_fit(blocks: int, width: int, arch: str) -> None:
    """The meta device needs no memory for weights: a WRN-28-10 has 36 million of them."""
    with torch.device("meta"):
        theirs = WideReference(blocks, width, 10).state_dict()
    assert guess_architecture(theirs) == arch
    fit = match(theirs, arch, state_of(arch, 10))
    assert fit.problems == 0
    assert fit.spelling == WIDE_RESNET
    shapes = {name: tensor.shape for name, tensor in state_of(arch, 10).items()}
    assert {name: tensor.shape for name, tensor in fit.tensors.items()} == shapes


def test_the_number_of_logits_may_alone_differ() -> None:
    fit = match(
        {"a": torch.zeros(10, 4), "b": torch.zeros(10)}, "wrn-10-1", {"a": torch.zeros(7, 4), "b": torch.zeros(7)}
    )
    assert fit.logits_in_file == 10


def test_the_name_of_a_missing_tensor_of_no_layer_is_not_guessed() -> None:
    """torchvision's pos_embedding is in a layer, and its class_token is in none."""
    wanted = {"pos_embed": torch.zeros(1, 50, 4), "cls_token": torch.zeros(1, 1, 4)}
    fit = match({"encoder.pos_embedding": wanted["pos_embed"]}, "timm:vit_base_patch32_224", wanted)
    assert list(fit.tensors) == ["pos_embed"]
    assert fit.missing == {"cls_token": ""}
