"""Random-resized crops: what is drawn, what is cut, and what depends on it."""

import numpy as np
import pytest
import torch
from PIL import Image

from sgn_serve.pictures.files import read_rgb
from tests.training.tiny_run import arguments, failure, rows
from training.checkpoint import load_checkpoint
from training.command import main
from training.data.loading import load_pictures
from training.data.picture_folder import with_room_for_crops
from training.data.picture_set import PictureSet
from training.data.random_crops import ASPECTS, WholePictures, crop, draw_boxes, kept_side
from training.loop.augmentation import Augmentation
from training.options import configure, parse

pytestmark = pytest.mark.usefixtures("short_attacks")

CROPPED = ("--image-size=16", "--resize=crop", "--random-resized-crop=0.35")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Landscape and portrait JPEGs of three classes, told apart by colour; each gets darker from left to right."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 2)):
        for index, name in enumerate(("blue", "green", "red")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                width, height = (64, 40) if number % 2 else (36, 60)
                pixels = generator.integers(0, 60, (height, width, 3))
                pixels[:, :, 2 - index] += np.linspace(190, 100, width).astype(int)
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{number:02}.jpg", quality=95)
    return root


def test_areas_and_aspects_are_as_asked_and_every_crop_lies_in_its_picture():
    aspects = torch.tensor([1.0, 1.5, 0.6, 3.0, 0.1]).repeat(2000)
    left, top, width, height = draw_boxes(aspects, 0.35, seed=3).unbind(1)
    for start, extent in ((left, width), (top, height)):
        assert (start >= 0).all()
        assert (start + extent <= 1 + 1e-6).all()
    shares, ratios = width * height, aspects * width / height
    assert ratios.min() >= ASPECTS[0] - 1e-5
    assert ratios.max() <= ASPECTS[1] + 1e-5
    square = aspects == 1
    assert shares[square].min() == pytest.approx(0.35, abs=0.02)
    assert shares[square].max() > 0.9
    assert shares[square].std() > 0.1
    # Nothing of the wanted area fits into a strip: its middle is taken, as large as it can be.
    strip = aspects == torch.tensor(0.1)
    assert (width[strip] == 1).all()
    torch.testing.assert_close(ratios[strip], torch.full_like(ratios[strip], ASPECTS[0]))
    torch.testing.assert_close(top[strip], (1 - height[strip]) / 2)
    assert (draw_boxes(torch.ones(50), 1.0, seed=0)[:, 2:] <= 1).all()


def test_the_seed_decides_and_every_picture_gets_its_own():
    aspects = torch.full((100,), 1.3)
    once = draw_boxes(aspects, 0.35, seed=7)
    assert torch.equal(once, draw_boxes(aspects, 0.35, seed=7))
    assert not torch.isclose(once, draw_boxes(aspects, 0.35, seed=8)).all(dim=1).any()
    assert len(once.unique(dim=0)) == 100
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw_boxes(aspects, 0.35, seed=7)
    assert torch.equal(torch.get_rng_state(), before), "the global generator has other users"


def test_a_crop_is_that_part_of_the_picture(photos):
    path = sorted((photos / "train" / "red").iterdir())[1]
    side = kept_side(24)
    kept = torch.from_numpy(read_rgb(path, (side, side)).transpose(2, 0, 1).copy())
    whole = Image.fromarray(read_rgb(path, None))
    boxes = draw_boxes(torch.full((20,), whole.width / whole.height), 0.35, seed=1)
    for box, found in zip(boxes.tolist(), crop(kept.expand(20, -1, -1, -1), boxes, 24), strict=True):
        left, top = box[0] * whole.width, box[1] * whole.height
        part = (left, top, left + box[2] * whole.width, top + box[3] * whole.height)
        expected = np.asarray(whole.resize((24, 24), Image.Resampling.BILINEAR, part)).astype(float)
        difference = found.permute(1, 2, 0).numpy() - expected
        assert abs(difference.mean()) < 1.5
        # The noise of single pixels is resampled twice.
        assert np.abs(difference).mean() < 12
        left_and_right = found[0].float().mean(dim=0)[[2, -3]]
        assert left_and_right[0] > left_and_right[1], "red falls from left to right"


def test_a_crop_of_everything_shrinks_the_picture():
    ramp = torch.arange(32, dtype=torch.uint8).expand(1, 3, 32, 32)
    shrunk = crop(ramp, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 16)
    assert shrunk.shape == (1, 3, 16, 16)
    assert (shrunk[0, 0, 0].int() - torch.arange(0, 32, 2)).abs().max() <= 1


def test_pictures_with_room_keep_their_aspect(photos):
    pictures = load_pictures("image-folder", photos, "train", 16, resize="crop")
    assert pictures.whole is None
    with_room = with_room_for_crops(pictures, photos / "train")
    assert torch.equal(with_room.images, pictures.images)
    whole = with_room.whole
    assert isinstance(whole, WholePictures)
    assert whole.images.shape == (36, 3, 22, 22)
    assert whole.aspects[:2].tolist() == pytest.approx([36 / 60, 64 / 40])
    some = with_room.subset(torch.tensor([5, 1]))
    assert some.files == (pictures.files[5], pictures.files[1])
    assert some.whole is not None
    assert torch.equal(some.whole.images, whole.images[[5, 1]])


def test_crops_differ_by_epoch_and_not_by_the_batch_they_are_in(photos):
    argv = arguments(photos, "a", *CROPPED, "--no-flip")
    argv.remove("--crop-padding=1")
    config = configure(parse(argv), torch.device("cpu"))
    pictures = with_room_for_crops(load_pictures("image-folder", photos, "train", 16, resize="crop"), photos / "train")
    whole = pictures.whole
    assert whole is not None

    def augmented(seed: int, parts: list[list[int]]) -> torch.Tensor:
        augmentation = Augmentation(config, (0.5,) * 3, 3, whole.aspects)
        augmentation.start_epoch(seed)
        made = torch.empty(36, 3, 16, 16, dtype=torch.uint8)
        for part in parts:
            chosen = torch.tensor(part)
            made[chosen], _ = augmentation(whole.images[chosen], pictures.labels[chosen], chosen)
        return made

    forwards = [list(range(first, first + 12)) for first in (0, 12, 24)]
    backwards = [list(range(35, 17, -1)), list(range(17, -1, -1))]
    assert torch.equal(augmented(1, forwards), augmented(1, backwards))
    assert not (augmented(1, forwards) == augmented(2, forwards)).flatten(1).all(dim=1).any()


def test_training_with_crops_resumes_to_the_same_network_and_validates_as_without(photos, runs, capsys, monkeypatch):
    def argv(run: str, *more: str) -> list[str]:
        given = arguments(photos, run, "--method=standard", "--batch-size=8", *more)
        given.remove("--crop-padding=1")
        return given

    validated = []
    from training.loop.validation import Validation

    measure = Validation.measure

    def recording(self, model, tell):
        validated.append(self.images)
        return measure(self, model, tell)

    monkeypatch.setattr(Validation, "measure", recording)
    assert main(argv("whole", *CROPPED)) == 0
    assert main(argv("without", *CROPPED[:2])) == 0
    assert all(torch.equal(images, validated[0]) for images in validated), "crops are for training alone"
    _, info = load_checkpoint(runs / "whole" / "model.safetensors")
    assert (info.resize, info.image_size, info.recipe["random_resized_crop"]) == ("crop", (16, 16), 0.35)
    _, without = load_checkpoint(runs / "without" / "model.safetensors")
    assert (without.mean, without.std) == (info.mean, info.std)
    assert [row["train_loss"] for row in rows(runs / "whole")] != [row["train_loss"] for row in rows(runs / "without")]

    from training.loop.trainer import Trainer

    epoch = Trainer._train_epoch

    def stopping(self, index, bar):
        if index == 2:
            raise KeyboardInterrupt
        return epoch(self, index, bar)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", stopping)
        assert main(argv("parts", *CROPPED)) == 130
    assert main([*argv("parts", *CROPPED), "--resume"]) == 0
    assert [row["train_loss"] for row in rows(runs / "parts")] == [row["train_loss"] for row in rows(runs / "whole")]
    one, two = (load_checkpoint(runs / run / "model.safetensors")[0] for run in ("whole", "parts"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name
    assert "random_resized_crop (was 0.35, now 0.5)" in failure(
        capsys, [*argv("parts", *CROPPED[:2], "--random-resized-crop=0.5"), "--resume"]
    )


def test_crops_that_make_no_sense_are_refused(photos, runs, capsys):
    assert "--resize crop" in failure(capsys, arguments(photos, "a", "--image-size=16", "--random-resized-crop=0.35"))
    assert "--image-size" in failure(capsys, arguments(photos, "a", "--resize=crop", "--random-resized-crop=0.35"))
    assert "in [0, 1]" in failure(capsys, arguments(photos, "a", *CROPPED[:2], "--random-resized-crop=1.5"))
    assert "--crop-padding does nothing beside" in failure(capsys, arguments(photos, "a", *CROPPED))
    assert not runs.exists()


def test_a_set_without_files_or_room_stays_so():
    plain = PictureSet(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4).long(), ("a", "b"))
    some = plain.subset(torch.tensor([1]))
    assert (some.files, some.whole) == ((), None)
