"""Computing something for many pictures, a batch at a time."""

import pytest
import torch

from training.common.in_batches import first_pass_in_batches, in_batches


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_all_pictures_in_order_and_no_more_at_once_than_said(batch_size, sizes):
    one, other = torch.rand(5, 3, 2, 2), torch.arange(5)
    seen = []

    def function(images, labels):
        seen.append(len(images))
        return images.sum(dim=(1, 2, 3)) + labels

    assert torch.equal(in_batches(function, one, other, batch_size=batch_size), function(one, other))
    assert seen[:-1] == sizes
    logits, gradients = first_pass_in_batches(lambda images: (images[:, 0, 0], 2 * images), one, batch_size)
    assert torch.equal(logits, one[:, 0, 0])
    assert torch.equal(gradients, 2 * one)


def test_pictures_and_labels_of_different_numbers_are_a_mistake():
    with pytest.raises(ValueError, match="zip"):
        in_batches(torch.add, torch.rand(5), torch.rand(3), batch_size=2)
