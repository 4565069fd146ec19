"""The store of last perturbations: one byte a value, moved with the pictures."""

import pytest
import torch
import torch.nn.functional as F

from training.data.batches import draw_placement
from training.loop.perturbations import LEVELS, PerturbationStore
from training.loop.state import TrainerError
from training.parallel.distributed import Shard

EPS = 8 / 255


def store(seed: int = 0) -> PerturbationStore:
    return PerturbationStore(6, (12, 12), EPS, seed, torch.device("cpu"))


def test_it_starts_at_corners_of_the_ball_that_the_seed_decides():
    levels = store().levels
    assert levels.dtype == torch.int8
    assert set(levels.unique().tolist()) == {-LEVELS, LEVELS}
    assert 0.45 < (levels > 0).float().mean() < 0.55
    assert torch.equal(levels, store().levels)
    assert not torch.equal(levels, store(seed=1).levels)


def test_too_little_memory_for_them_and_the_copy_that_is_saved_is_one_line(monkeypatch):
    stored = 6 * 3 * 12 * 12
    monkeypatch.setattr("training.loop.perturbations.free_memory", lambda device: 2 * stored)
    store()
    monkeypatch.setattr("training.loop.perturbations.free_memory", lambda device: 2 * stored - 1)
    with pytest.raises(TrainerError, match=r"each of 6 pictures: .* of memory is free on cpu; leave it away") as told:
        store()
    assert "\n" not in str(told.value)
    PerturbationStore(6, (12, 12), EPS, 0, torch.device("cpu"), Shard(1, 2))  # another process saves


@pytest.mark.parametrize("flip", [True, False])
def test_what_is_put_comes_back_within_half_a_level_and_follows_the_picture(flip):
    """Perturbations are put as one placement shows them, and taken as another shows them."""
    torch.manual_seed(0)
    kept = store()
    before = kept.levels.clone()
    chosen = torch.tensor([4, 0, 3])
    images = torch.zeros(3, 3, 8, 8)
    first, second = (draw_placement(images, padding=2, flip=flip) for _ in range(2))
    new = (2 * torch.rand(3, 3, 8, 8) - 1) * EPS
    kept.put(chosen, first, new)
    assert (kept.take(chosen, first) - new).abs().max() <= EPS / LEVELS / 2 + 1e-7
    # The same by hand: pixel by pixel, in the padded picture.
    expected = before.double() * EPS / LEVELS
    for picture, index in enumerate(chosen.tolist()):
        for row in range(8):
            for column in range(8):
                place = first.rows[picture, row], first.columns[picture, column]
                expected[index, :, place[0], place[1]] = new[picture, :, row, column].double()
    shown = second.of(expected[chosen])
    assert (kept.take(chosen, second) - shown).abs().max() <= EPS / LEVELS / 2 + 1e-7
    others = torch.tensor([1, 2, 5])
    assert torch.equal(kept.levels[others], before[others])


def test_a_placement_shows_pictures_as_it_shows_their_perturbations():
    torch.manual_seed(0)
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    placement = draw_placement(images, padding=2, flip=True)
    padded = F.pad(images, (2,) * 4)
    shown = placement.of(padded)
    again = torch.zeros_like(padded)
    placement.put(again, shown)
    assert torch.equal(placement.of(again), shown)
    assert torch.equal(again[again > 0], padded[again > 0])


def test_more_than_eps_is_cut():
    kept = store()
    placement = draw_placement(torch.zeros(1, 3, 8, 8), padding=2, flip=True)
    kept.put(torch.tensor([2]), placement, torch.full((1, 3, 8, 8), 3 * EPS))
    assert torch.allclose(kept.take(torch.tensor([2]), placement), torch.tensor(EPS))
