import pytest
import torch

from training.evaluate.auto_margin import both_answers, effect_of_margin, find_auto_margin, smallest_auto_margin


def answers(*pictures: tuple[float, bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two classes, block off and on, of pictures with these margins; the block changes those with True."""
    likelier = torch.tensor([(1 + margin) / 2 for margin, _ in pictures])
    plain = torch.stack([likelier, 1 - likelier], dim=1).log()
    changed = torch.tensor([change for _, change in pictures])
    return plain, torch.where(changed[:, None], plain.flip(1), plain)


PICTURES = answers(
    (0.01, True), (0.05, False), (0.1, True), (0.2, False), (0.3, True), (0.6, False), *[(0.9, False)] * 4
)


@pytest.mark.parametrize(
    ("agreement", "margin", "second_pass"), [(1.0, 0.3, 0.5), (0.9, 0.1, 0.3), (0.8, 0.01, 0.1), (0.7, 0.0, 0.0)]
)
def test_smallest_threshold_takes_in_the_changed_answers_from_the_lowest_margin_up(agreement, margin, second_pass):
    found = smallest_auto_margin(*PICTURES, agreement)
    assert found.margin == pytest.approx(margin, abs=1.5e-4)
    assert found.agreement == pytest.approx(agreement)
    assert found.second_pass == pytest.approx(second_pass)
    assert found.pictures == 10


def test_effect_counts_what_is_under_the_threshold():
    effect = effect_of_margin(0.25, *PICTURES)
    assert effect.second_pass == pytest.approx(0.4)
    assert effect.agreement == pytest.approx(0.9)


def test_found_threshold_gives_the_agreement_when_the_network_uses_it(network):
    torch.manual_seed(1)
    model, images = network(), torch.rand(60, 3, 16, 16)
    plain, corrected = both_answers(model, images, batch_size=16)
    assert (plain.argmax(dim=1) != corrected.argmax(dim=1)).sum() > 6, "the block must change answers"
    found = find_auto_margin(model, images, 0.95, batch_size=16)
    model.auto_margin = found.margin
    with torch.no_grad():
        logits, chosen = model.auto_pass(images)
        same = logits.argmax(dim=1) == model(images).argmax(dim=1)
    assert same.float().mean().item() == pytest.approx(found.agreement)
    assert found.agreement >= 0.95
    assert chosen.float().mean().item() == pytest.approx(found.second_pass)
    less = effect_of_margin(found.margin - 2e-4, plain, corrected)
    assert less.agreement < 0.95, "a smaller threshold is not enough"
