"""Every part of the project finds the same values in a picture file, however the file stores them."""

import asyncio
import re
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import export.command
import training.command
from export.check.pictures import PicturesError, pictures_in, pictures_under
from sgn_serve.classify.cage import Cage, Decoded, input_batch
from sgn_serve.decoder_processes.decoder import Decoder, DecoderLimits
from sgn_serve.decoder_processes.job import PictureOptions
from sgn_serve.inference.graph import read_graph
from sgn_serve.pictures.errors import PictureRefused
from sgn_serve.pictures.files import read_rgb
from sgn_serve.serving.predictor import Predictor
from sgn_serve.settings import Settings
from tests.sgn_serve.odd_formats import odd_formats, refused_formats
from tests.sgn_serve.odd_pictures import OddPicture, odd_pictures, write_tiff
from tests.sgn_serve.sample_pictures import encode, noise
from tests.sgn_serve.server import application_client
from tests.sgn_serve.tiny_graph import save_tiny_graph
from training.data.batches import to_float
from training.data.loading import load_pictures
from training.data.picture_set import DatasetError, PictureSet
from training.evaluate.command import main as evaluate_main


@pytest.fixture(scope="module")
def ship(project_root: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(project_root / "examples" / "ship_00.png").convert("RGB"))


@pytest.fixture(scope="module")
def odd(ship: NDArray[np.uint8]) -> list[OddPicture]:
    wide = np.asarray(Image.fromarray(ship).resize((48, 32)))
    both = [*odd_pictures(wide), *odd_formats(wide)]
    more = [OddPicture(f"wide_{picture.name}", picture.data, picture.expected) for picture in both[::7]]
    # Decoded at half its size, because it is shrunk far more.
    large = Image.fromarray(noise(20, 30)).resize((2600, 1700), Image.Resampling.BICUBIC)
    more.append(OddPicture("large.jpg", encode(large, "JPEG", quality=95), ship))
    return [*odd_pictures(ship), *odd_formats(ship), *more]


def served(files: list[bytes], size: int, resize: str = "stretch") -> list[NDArray[np.float32] | PictureRefused]:
    """Return what the service's decoder makes of some files, or why it refuses them."""

    async def decode() -> list[NDArray[np.float32] | PictureRefused]:
        limits = DecoderLimits(processes=2, seconds=3.5, file_bytes=10 << 20)
        decoder = Decoder(PictureOptions((size, size), 25_000_000, resize=resize), limits)
        await decoder.start()
        made: list[NDArray[np.float32] | PictureRefused] = []
        try:
            for number, data in enumerate(files):
                try:
                    made.append(await decoder.decode(BytesIO(data), request=number))
                except PictureRefused as refused:
                    made.append(refused)
        finally:
            await decoder.close()
        return made

    return asyncio.run(decode())


def served_arrays(files: list[bytes], size: int, resize: str = "stretch") -> list[NDArray[np.float32]]:
    """Return what the service's decoder makes of some files, none of which it refuses."""
    made = served(files, size, resize)
    arrays = [one for one in made if isinstance(one, np.ndarray)]
    assert len(arrays) == len(made), [one for one in made if isinstance(one, PictureRefused)]
    return arrays


def test_odd_pictures_are_read_rightly(ship: NDArray[np.uint8]) -> None:
    marked = ship.copy()
    marked[:4, :4], marked[4:8, :4] = 255, 0
    pictures = [*odd_pictures(marked), *odd_formats(marked)]
    assert len(pictures) >= 480, "and more where HEIC is installed"
    assert len({picture.name for picture in pictures}) == len(pictures)
    wrong = {}
    for picture in pictures:
        errors = np.abs(read_rgb(picture.data, None).astype(float) - picture.expected)
        if errors.mean() > picture.tolerance or (picture.tolerance < 2 and errors.max() > 2):
            wrong[picture.name] = (errors.mean(), errors.max())
    assert wrong == {}


@pytest.mark.parametrize(
    ("size", "resize"),
    [
        (32, "stretch"),
        pytest.param(20, "stretch", marks=pytest.mark.thorough),
        (20, "crop"),
        pytest.param(20, "pad", marks=pytest.mark.thorough),
    ],
)
def test_training_evaluation_export_and_serving_read_equal_arrays(
    size: int, resize: str, odd: list[OddPicture], tmp_path: Path
) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / split / "b" / "black.png")
        for picture in odd:
            (tmp_path / split / "a" / picture.name).write_bytes(picture.data)
    ordered = sorted(odd, key=lambda picture: picture.name)
    expected = torch.from_numpy(np.stack(served_arrays([picture.data for picture in ordered], size, resize)))

    trained = load_pictures("image-folder", tmp_path, "train", size, resize=resize)
    judged = load_pictures("image-folder", tmp_path, "test", size, trained.class_names, resize)
    folder = tmp_path / "train" / "a"
    for found in (
        to_float(trained.images)[: len(odd)],
        to_float(judged.images)[: len(odd)],
        pictures_in(folder, len(odd), (size, size), resize),
        pictures_under(folder, len(odd), (size, size), resize),
    ):
        differing = [
            picture.name
            for picture, one, other in zip(ordered, found, expected, strict=True)
            if not torch.equal(one, other)
        ]
        assert differing == []


@pytest.mark.thorough
def test_bulk_scoring_and_the_page_see_what_the_service_classifies(odd: list[OddPicture], tmp_path: Path) -> None:
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    settings, size = Settings(model_path=model), read_graph(model).description.image_size[0]
    files = [picture.data for picture in odd]
    expected = served_arrays(files, size)

    async def decode() -> list[Decoded]:
        cage = Cage(PictureOptions((size, size), 25_000_000), settings, 1)
        await cage.start()
        try:
            return [one for group in batched(files, cage.places) for one in await cage.decode(group)]
        finally:
            await cage.close()

    scored = asyncio.run(decode())
    with application_client(settings) as client:
        pages = [client.post("/preprocess", files={"image": data}) for data in files]
    for picture, of_service, of_scoring, page in zip(odd, expected, scored, pages, strict=True):
        assert isinstance(of_scoring, np.ndarray), picture.name
        assert np.array_equal(input_batch([of_scoring])[0], of_service), picture.name
        seen = np.asarray(Image.open(BytesIO(page.content)))
        assert np.array_equal(seen.transpose(2, 0, 1), np.rint(255 * of_service)), picture.name


def batched(files: list[bytes], size: int) -> Iterator[list[bytes]]:
    return (files[at : at + size] for at in range(0, len(files), size))


def test_what_the_server_refuses_is_refused_everywhere(ship: NDArray[np.uint8], tmp_path: Path) -> None:
    plane = np.zeros((8, 8), np.int64)
    refused = {
        "float.tif": encode(Image.new("F", (8, 8)), "TIFF"),
        "signed.tif": write_tiff([plane], 8, 1, t339=2),
        "separate_alpha.tif": write_tiff([plane, plane], 8, 1, planar=True, compression=8, t338=2),
        "truncated.png": encode(Image.fromarray(ship))[:500],
        "text.png": b"no picture",
        **refused_formats(),
    }
    (tmp_path / "train" / "b").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "b" / "black.png")
    for (name, data), reason in zip(refused.items(), served(list(refused.values()), 8), strict=True):
        assert isinstance(reason, PictureRefused), name
        folder = tmp_path / "train" / "a"
        folder.mkdir()
        (folder / name).write_bytes(data)
        with pytest.raises(DatasetError, match="not a readable picture") as of_training:
            load_pictures("image-folder", tmp_path, "train", 8)
        with pytest.raises(PicturesError, match="not a picture that can be read") as of_export:
            pictures_in(folder, 1, (8, 8))
        assert str(reason) in str(of_training.value)
        assert str(reason) in str(of_export.value)
        (folder / name).unlink()
        folder.rmdir()


OPENING = re.compile(
    r"Image\.open\(|from PIL\.Image import|\bcv2\b|imageio|skimage|torchvision\.io|default_loader|ImageFolder"
)


def test_nothing_else_opens_the_pictures_of_a_network(project_root: Path) -> None:
    """Allow Pillow in files that stand alone: competitors' services, a measurement of Pillow, a one-file example.

    The example needs no more than PyTorch and Pillow. Its CIFAR-10 files hold no turn, no alpha and no odd depth.
    """
    opens = {
        str(path.relative_to(project_root))
        for folder in ("sgn_serve", "training", "export", "release", "benchmarks", "deploy", "examples")
        for path in (project_root / folder).rglob("*.py")
        if OPENING.search(path.read_text())
    }
    assert opens == {
        "sgn_serve/pictures/decoding.py",
        "sgn_serve/pictures/unfinished_jpeg.py",
        "benchmarks/classify.py",
        "benchmarks/service/servers/fastapi_server.py",
        "benchmarks/service/servers/litserve_server.py",
        "examples/speedrun.py",
    }


def test_how_pictures_are_resized_goes_from_training_to_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle of a picture tells its class, and its sides tell another: whoever stretches is wrong."""
    monkeypatch.chdir(tmp_path)
    for split, (index, name) in product(("train", "test"), enumerate(("dark", "light"))):
        folder = tmp_path / split / name
        folder.mkdir(parents=True)
        for number in range(28):
            picture = Image.new("L", (48, 16), 255 * (1 - index))
            picture.paste(255 * index - number * (2 * index - 1), (16, 0, 32, 16))
            picture.save(folder / f"{number}.png")
    data = ["--dataset=image-folder", f"--data-root={tmp_path}"]
    options = ["--arch=wrn-10-1", "--method=standard", "--image-size=16", "--resize=crop", "--device=cpu"]
    short = ["--epochs=1", "--batch-size=4", "--validation-pictures=4", "--precision=float32", "--run=cropped"]
    assert training.command.main([*data, *options, *short]) == 0
    checkpoint = tmp_path / "runs" / "cropped" / "model.safetensors"

    judged, checked = [], []

    def judge(*given: Any) -> PictureSet:
        judged.append(load_pictures(*given))
        return judged[0]

    def check(*given: Any) -> torch.Tensor:
        checked.append(pictures_in(*given))
        return checked[0]

    monkeypatch.setattr("training.evaluate.prepare.load_pictures", judge)
    asked = [f"--ckpt={checkpoint}", f"--data-root={tmp_path}", "--pictures=4", "--attacks=fgsm", "--device=cpu"]
    assert evaluate_main(asked) == 0
    assert judged[0].images[:28].max() < 28, "only the dark middle of the first class"
    assert judged[0].images[28:].min() > 227

    monkeypatch.setattr("export.exporter.pictures_in", check)
    graph = tmp_path / "model.onnx"
    pictures = str(tmp_path / "test" / "dark")
    assert export.command.main([f"--ckpt={checkpoint}", "--pictures", pictures, "--onnx", str(graph)]) == 0
    assert checked[0].max() < 28 / 255

    predictor = Predictor(read_graph(graph), Settings(model_path=graph))
    assert predictor.card.preprocessing.resize_mode == "crop"
    (served_by_it,) = served_arrays(
        [(tmp_path / "test/dark/0.png").read_bytes()], predictor.description.image_size[0], "crop"
    )
    assert torch.equal(torch.from_numpy(served_by_it), checked[0][0])
