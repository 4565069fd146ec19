"""A folder with nothing but class folders: how it is divided, and that whoever uses the network divides it alike."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from export.check.pictures import PicturesError, pictures_under
from tests.training.checkpoints import tiny_info
from tests.training.conftest import COLOURS
from tests.training.tiny_run import failure
from training.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint
from training.command import main
from training.data.automatic_split import AutomaticSplit, Part
from training.data.loading import load_pictures
from training.data.picture_folder import in_test_part
from training.data.picture_set import DatasetError
from training.evaluate import command as judge

pytestmark = pytest.mark.usefixtures("short_attacks")

FORMATS = (".png", ".jpg", ".webp", ".bmp", ".tif")
PER_CLASS = 20


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of pictures of mixed sizes and formats, in class folders and nothing else."""
    generator = torch.Generator().manual_seed(0)
    root = tmp_path / "photos"
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(PER_CLASS):
            height, width = (int(side) for side in torch.randint(34, 60, (2,), generator=generator))
            noise = torch.randint(-40, 40, (height, width, 3), generator=generator)
            pixels = (torch.tensor(colour) + noise).clamp(0, 255).to(torch.uint8).numpy()
            Image.fromarray(pixels).save(root / name / f"{index:03}{FORMATS[index % len(FORMATS)]}")
    return root


def parts(root: Path, split: AutomaticSplit) -> tuple[set[bytes], set[bytes]]:
    """Return the contents of the files of both parts."""
    train, test = (load_pictures("image-folder", root, Part(name, split), 8) for name in ("train", "test"))
    return {path.read_bytes() for path in train.files}, {path.read_bytes() for path in test.files}


def train(photos: Path, run: str, *more: str) -> int:
    """Train with the fewest options, as the documentation writes them."""
    short = ("--arch=wrn-10-1", "--epochs=1", "--batch-size=8", "--precision=float32", "--device=cpu")
    return main(["--data", str(photos), f"--run={run}", *short, *more])


def test_a_folder_of_class_folders_is_divided_evenly(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train, test = (load_pictures("image-folder", photos, name, 8) for name in ("train", "test"))
    assert torch.bincount(train.labels).tolist() == [16, 16, 16]
    assert torch.bincount(test.labels).tolist() == [4, 4, 4]
    assert set(train.files) | set(test.files) == set(photos.rglob("*.*"))
    assert not set(train.files) & set(test.files)
    assert train.split == test.split is not None
    line = capfd.readouterr().err.splitlines()[0]
    assert line == (
        f"{photos}: no train/ and no test/, so its 3 class folders are divided by their content and seed 0: "
        "48 pictures to train on, 12 to judge on"
    )


def test_the_parts_depend_on_content_share_and_seed_alone(photos: Path) -> None:
    before = parts(photos, AutomaticSplit())
    assert parts(photos, AutomaticSplit(seed=1)) != before
    assert {name: len(part) for name, part in zip("ab", parts(photos, AutomaticSplit(0.5)), strict=True)} == {
        "a": 30,
        "b": 30,
    }
    for index, path in enumerate(sorted(photos.rglob("*.*"))):
        (path.parent / "more").mkdir(exist_ok=True)
        path.rename(path.parent / "more" / f"{(7 * index) % 60}{path.suffix}")
    assert parts(photos, AutomaticSplit()) == before


def test_pictures_added_later_move_no_others(photos: Path) -> None:
    split = load_pictures("image-folder", photos, "train", 8).split
    assert split is not None
    train_before, test_before = parts(photos, split)
    for index in range(30):
        Image.new("RGB", (40, 40), (40, 60, 100 + index)).save(photos / "blue" / f"new{index}.png")
    train, test = parts(photos, split)
    assert train_before < train
    assert test_before < test


def test_files_of_one_content_are_in_one_part(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in sorted((photos / "red").iterdir()):
        shutil.copy(path, path.with_stem(path.stem + "_copy"))
    train, test = parts(photos, AutomaticSplit())
    assert not train & test
    assert "several classes" not in capfd.readouterr().err
    for path in sorted((photos / "red").iterdir()):
        shutil.copy(path, photos / "blue" / f"red_{path.name}")
    train, test = parts(photos, AutomaticSplit(bounds=("c" * 16, "8" * 16, "4" * 16)))
    assert 0 < len(train & test) < PER_CLASS
    told = f"{photos}: 20 pictures stand in several classes, such as blue/red_000.png and red/000.png; remove the wrong"
    assert told in capfd.readouterr().err


def test_pictures_in_train_and_test_are_told(photos: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "test"):
        shutil.copytree(photos, photos.parent / "laid out" / name)
    root = photos.parent / "laid out"
    for path in sorted((root / "test").rglob("*.*"))[1:]:
        Image.open(path).rotate(90, expand=True).save(path)
    assert train(root, "laid-out", "--method=standard") == 0
    assert (
        f"{root / 'test'}: 1 of 60 pictures are in train/ too, such as test/blue/000.png (train/blue/000.png)"
        in capsys.readouterr().err
    )
    next((root / "test" / "blue").glob("000*")).unlink()
    assert train(root, "no-longer", "--method=standard") == 0
    assert "are in train/ too" not in capsys.readouterr().err


def test_training_and_judging_divide_a_folder_alike(
    photos: Path, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(photos, "mine", "--method=standard", "--seed=3", "--test-share=0.25") == 0
    said = capsys.readouterr()
    assert "divided by their content and seed 3: 45 pictures to train on, 15 to judge on" in said.err
    assert "sizes are resized to 32x32, by the median of their shorter sides" in said.err
    assert "41 pictures of image-folder, 4 more for validation" in said.out
    checkpoint = runs / "mine" / "model.safetensors"
    _, info = load_checkpoint(checkpoint)
    assert info.split is not None
    assert (info.split.seed, info.split.test_share, len(info.split.bounds)) == (3, 0.25, 3)
    assert (info.image_size, info.recipe["image_size"]) == ((32, 32), 32)
    trained, _ = parts(photos, info.split)

    judged = []

    def keep(*given: object, **named: object) -> object:
        judged.append(load_pictures(*given, **named))  # type: ignore[arg-type]
        return judged[-1]

    monkeypatch.setattr("training.evaluate.prepare.load_pictures", keep)
    asked = [f"--ckpt={checkpoint}", f"--data-root={photos}", "--attacks=fgsm", "--device=cpu"]
    assert judge.main(asked) == 0
    said = capsys.readouterr()
    assert "all 15 pictures of the test part are judged, which is less than 1,000" in said.err
    assert "divided as the checkpoint's training did" in said.err
    assert not {path.read_bytes() for path in judged[0].files} & trained
    report = json.loads((runs / "mine" / "evaluation.json").read_text())
    assert report["setting"]["pictures"] == 15

    # A network that starts from it does not train on what that one is judged on, whatever its own seed.
    assert train(photos, "next", "--method=standard", f"--init-from={checkpoint}", "--test-share=0.5") == 0
    _, later = load_checkpoint(runs / "next" / "model.safetensors")
    assert later.split == info.split
    assert later.image_size == (32, 32)
    state = torch.load(runs / "next" / "state.pt", weights_only=True)
    assert AutomaticSplit.from_values(state["split"]) == info.split
    again = ("--method=standard", f"--init-from={checkpoint}", "--test-share=0.5", "--resume")
    assert train(photos, "next", *again) == 0


def test_a_network_of_a_divided_folder_is_judged_on_all_of_an_undivided_one(
    picture_folder: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(picture_folder, "divided", "--method=standard") == 0
    _, info = load_checkpoint(runs / "divided" / "model.safetensors")
    assert info.split is None
    assert '"split"' not in info.to_json()
    photos = Path(shutil.copytree(picture_folder / "test", runs / "photos"))
    capsys.readouterr()
    asked = [f"--ckpt={runs / 'divided' / 'model.safetensors'}", "--attacks=fgsm", "--report=all.json"]
    assert judge.main([*asked, f"--data={photos}"]) == 0
    assert f"{photos}: neither train/ nor test/ is in it, so all of its pictures are judged" in capsys.readouterr().err
    assert json.loads(Path("all.json").read_text())["setting"]["pictures"] == len(list(photos.glob("*/*.*")))
    assert judge.main([*asked[:-1], f"--data={photos}", "--split=train", "--report=train.json"]) == 2
    assert "was not trained on such a folder; put the pictures into" in capsys.readouterr().err


def test_what_cannot_be_divided_is_refused(photos: Path, picture_folder: Path, runs: Path, capsys: object) -> None:
    for path in sorted((photos / "green").iterdir())[2:]:
        path.unlink()
    assert "class 'green' has too few different pictures to be divided (2)" in failure(
        capsys, [f"--data-root={photos}", "--arch=wrn-10-1"]
    )
    shutil.copytree(picture_folder, photos / "other")
    fix = f"other/ in it has train/ and test/ of its own; point --data-root at {photos / 'other'}"
    assert fix in failure(capsys, [f"--data-root={photos}", "--arch=wrn-10-1"])
    split = AutomaticSplit(bounds=("0" * 16,) * 3)
    with pytest.raises(DatasetError, match="no picture of class 'blue' is in the test part"):
        load_pictures("image-folder", picture_folder / "train", Part("test", split))


def test_export_compares_precisions_on_the_test_part(photos: Path) -> None:
    test = load_pictures("image-folder", photos, "test", 8)
    assert test.split is not None
    wanted = in_test_part(photos, test.class_names, test.split)
    assert [path for path in sorted(photos.rglob("*.*")) if wanted(path)] == sorted(test.files)
    taken = pictures_under(photos, 12, (8, 8), wanted=wanted)
    assert torch.equal((255 * taken).round().to(torch.uint8), test.images)
    with pytest.raises(PicturesError, match="12 pictures, but 13 are needed"):
        pictures_under(photos, 13, (8, 8), wanted=wanted)
    assert all(map(in_test_part(photos, test.class_names, None), photos.rglob("*.*")))
    assert all(map(in_test_part(photos / "red", test.class_names, test.split), (photos / "red").iterdir()))


def test_a_description_carries_the_split_and_refuses_others() -> None:
    split = AutomaticSplit(0.25, 7, ("0123456789abcdef", "f" * 16))
    info = tiny_info(split=split)
    assert CheckpointInfo.from_json(info.to_json()) == info
    values = json.loads(info.to_json())
    changes: tuple[Callable[[dict], object], ...] = (
        lambda split: split.pop("seed"),
        lambda split: split.update(test_share=1.5),
        lambda split: split.update(seed="7"),
        lambda split: split.update(bounds=[1, 2]),
        lambda split: split.update(bounds=[]),
    )
    for change in changes:
        changed = json.loads(json.dumps(values))
        change(changed["split"])
        with pytest.raises(CheckpointError, match="its JSON's split cannot be used: "):
            CheckpointInfo.from_json(json.dumps(changed))
