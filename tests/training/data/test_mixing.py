import torch

from training.data.mixing import cutmix, cutout


def test_cutout_fills_a_square_hole():
    torch.manual_seed(0)
    images = torch.randint(100, 200, (50, 3, 12, 12), dtype=torch.uint8)
    fill = torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1)
    cut = cutout(images, 4, fill)
    holes = (cut == fill).all(dim=1)
    assert torch.equal(torch.where(holes[:, None], images, cut), images)
    areas = holes.sum(dim=(1, 2))
    assert areas.max() == 16
    assert areas.min() >= 4  # a hole in the corner
    assert len({tuple(hole.nonzero()[0].tolist()) for hole in holes}) > 20  # each picture has its own


def test_cutmix_mixes_labels_by_area():
    torch.manual_seed(0)
    labels = torch.arange(40)
    images = labels.view(-1, 1, 1, 1).expand(40, 3, 10, 10).to(torch.uint8).contiguous()
    mixed, targets = cutmix(images, labels, 40, 0.5)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(40))
    changed = 0
    for index in range(40):
        shares = torch.bincount(mixed[index, 0].flatten().int(), minlength=40) / 100
        torch.testing.assert_close(shares, targets[index])
        assert torch.equal(mixed[index, 0], mixed[index, 2])
        changed += bool(targets[index, index] < 1)
    assert 8 <= changed <= 30


def test_no_share_mixes_nothing():
    images, labels = torch.rand(8, 3, 6, 6), torch.arange(8) % 3
    mixed, targets = cutmix(images, labels, 3, 0.0)
    assert torch.equal(mixed, images)
    assert torch.equal(targets.argmax(dim=1), labels)
    assert targets.max() == 1
