"""Commands read weights of other programs directly where nothing is left open, and else name the conversion."""

import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from export.command import main as export
from sgn_serve.common.graph_format import METADATA_KEY, file_sha256
from tests.training.checkpoints import save_untrained, tiny_info
from tests.training.foreign.references import Normalised, PreActReference, WideReference, lively
from tests.training.tiny_run import arguments
from training.checkpoint import CheckpointError, load_checkpoint
from training.command import main as train
from training.convert.command import main as convert
from training.evaluate.command import main as evaluate
from training.foreign.errors import WeightsError
from training.foreign.kind import is_foreign
from training.foreign.loading import Source, load_network
from training.foreign.recognising import recognise

pytestmark = pytest.mark.usefixtures("short_attacks")

NAMES = ("blue", "green", "red")
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def wide(classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    return Normalised(lively(WideReference(1, 1, classes)), MEAN, STD).eval()


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_a_foreign_file_is_told_from_ours(tmp_path: Path) -> None:
    ours = save_untrained(tmp_path, tiny_info())
    foreign = saved(tmp_path / "x.pth", wide().state_dict())
    beside = saved(tmp_path / "y.pt", wide().state_dict())
    (tmp_path / "y.json").write_text(tiny_info().to_json())
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(ours.read_bytes()[:100])
    assert [is_foreign(path) for path in (ours, foreign, beside, damaged, tmp_path / "none.pt")] == [
        *(False, True, False, False, False)
    ]
    assert is_foreign(foreign.rename(tmp_path / "x.pt"))
    (tmp_path / "x.json").write_text('{"format": "self-gradient-figures/1"}')  # export writes it beside x.onnx
    assert is_foreign(tmp_path / "x.pt")
    (tmp_path / "x.json").write_text(tiny_info().to_json()[:-9])
    assert not is_foreign(tmp_path / "x.pt"), "a description that is damaged is told as such"


def test_a_file_that_says_its_normalisation_is_loaded_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = wide()
    path = saved(tmp_path / "x.pth", {"model": reference.state_dict()})
    network, info = load_network(Source(path, NAMES))
    assert (info.architecture, info.class_names, info.method) == ("wrn-10-1", NAMES, "converted")
    assert info.mean == pytest.approx(MEAN)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images), reference(images), rtol=1e-4, atol=1e-4)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: took it for wrn-10-1, by its names and shapes; took what it holds under 'model'")
    assert line.endswith("; pictures: 32x32")


def test_a_file_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    with pytest.raises(WeightsError, match="no state dict in it"):
        load_network(Source(saved(tmp_path / "x.pth", content), NAMES))


def test_the_header_of_a_safetensors_file_may_look_like_anything(tmp_path: Path) -> None:
    """Its first bytes are its length. 19280 begins as a ZIP file's first two do."""
    path = tmp_path / "model.safetensors"

    def write(header: str, length: int = 0) -> Path:
        text = header.encode().ljust(length)
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        return path

    ours = json.dumps({"__metadata__": {METADATA_KEY: "{}"}})
    assert not is_foreign(write(ours, 19280))
    assert path.read_bytes()[:2] == b"PK"
    assert is_foreign(write("{}"))
    for damaged in ('{"__metadata__": 5}', '{"a": ' * 100_000):
        assert not is_foreign(write(damaged))


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,) * 3, (0.0, 0.2, 0.2)), ((0.5,) * 3, (math.nan,) * 3), ((math.inf,) * 3, (0.2,) * 3)]
)
def test_a_normalisation_that_divides_by_nothing_is_refused(
    tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    path = saved(tmp_path / "x.pth", Normalised(lively(WideReference(1, 1, 3)), mean, std).state_dict())
    assert "and the latter must be above 0; pass the right ones to `python -m training.convert" in refusal(path)
    argv = [f"--weights={path}", "--classes=a,b,c", f"--out={tmp_path / 'x.safetensors'}"]
    assert convert(argv) == 2
    assert "the latter must be above 0; pass --mean and --std" in capsys.readouterr().err
    assert convert([*argv, "--mean=0,0,0", "--std=1,1,1"]) == 0


def refusal(path: Path, flag: str = "--ckpt") -> str:
    with pytest.raises(WeightsError) as caught:
        load_network(Source(path, NAMES, flag))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_left_open_is_named_with_the_command_that_takes_it(tmp_path: Path) -> None:
    reference = wide()
    plain = saved(tmp_path / "plain.pt", reference.get_submodule("model").state_dict())
    error = refusal(plain, "--transfer-from")
    assert error.startswith(f"--transfer-from {plain}: wrn-10-1 of 3 classes, but nothing in it says what")
    found = re.search(r"`python -m (training\.convert .*)`", error)
    assert found is not None
    _, *argv = shlex.split(found[1].replace("NAMES", "a,b,c"))
    assert convert(argv) == 0
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = reference.get_submodule("model")(images)
        converted = load_checkpoint(tmp_path / "plain-converted.safetensors")[0](images)
    torch.testing.assert_close(converted, expected, rtol=1e-4, atol=1e-4)

    which = saved(tmp_path / "which.pt", PreActReference(3, True, True).state_dict())
    assert f"--arch ARCH --weights {which} --classes NAMES --out" in refusal(which)
    unnamed = saved(tmp_path / "unnamed.pt", reference.state_dict())
    with pytest.raises(WeightsError, match=r"wrn-10-1 of 3 classes, which nothing in it names; pass --classes here"):
        load_network(unnamed)
    four = saved(tmp_path / "four.pt", wide(4).state_dict())
    assert "has 4 logits, and there are 3 classes" in refusal(four)
    ours = save_untrained(tmp_path, tiny_info())
    assert "is none; leave it out" in refusal(ours)


def test_training_starts_from_the_weights_of_a_foreign_file(
    tmp_path: Path, picture_folder: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = wide()
    path = saved(tmp_path / "x.pth", reference.state_dict())
    # Steps so small that float32 holds what training starts from.
    small = ("--method=standard", "--lr=1e-30")
    assert train(arguments(picture_folder, "a", *small, f"--init-from={path}", epochs=1)) == 0
    printed = capsys.readouterr().out
    assert f"starts from {path}: took it for wrn-10-1" in printed or f"starts from {path}: read the" in printed
    network, _ = load_checkpoint(runs / "a" / "model.safetensors")
    trained = dict(network.backbone.named_parameters())
    theirs = recognise(path, "--init-from").match.tensors
    assert len(trained) > 10
    for name, parameter in trained.items():
        assert torch.equal(parameter, theirs[name]), name
    first = reference.get_submodule("model").get_parameter("conv1.weight")
    assert torch.equal(trained["stem.weight"], first), "and not a mapping of our own alone"


def test_errors_name_their_own_flag(tmp_path: Path) -> None:
    for name, content in (("none.safetensors", None), ("text.safetensors", "nothing")):
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        with pytest.raises(CheckpointError, match=r"to --init-from$"):
            load_network(Source(path, None, "--init-from"))


def test_pictures_that_nothing_divides_have_no_split(
    tmp_path: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The heading names the folder that was judged, for a converted network and for weights as they are."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": lively(WideReference(1, 1, 3)).state_dict(), "mean": 0}, "x.pt")
    shutil.copytree(picture_folder / "test", "photos")
    names = ["--weights=x.pt", "--classes=blue,green,red", "--image-size=16", "--out=m.safetensors"]
    assert convert(names) == 0
    capsys.readouterr()
    judged = ["--attacks=clean", "--pictures=6", "--device=cpu", "--report=r"]
    assert evaluate(["--ckpt=m.safetensors", "--data-root=photos", *judged]) == 0
    printed = capsys.readouterr()
    assert "so all of its pictures are judged" in printed.err
    assert printed.out.startswith("photos, 6 pictures, L-inf eps ")
    assert Path("r/evaluation.md").read_text().splitlines()[2].startswith("photos, 6 pictures, seed 0")
    shutil.rmtree("r")
    assert evaluate(["--ckpt=m.safetensors", f"--data-root={picture_folder}", *judged]) == 0
    assert capsys.readouterr().out.startswith(f"{picture_folder.name}, test split, 6 pictures")


def test_export_takes_a_foreign_file_with_the_names_of_its_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    path = saved(tmp_path / "x.pth", wide().state_dict())
    out = tmp_path / "x.onnx"
    assert export([f"--ckpt={path}", f"--onnx={out}"]) == 2
    assert "pass --classes here, or run `python -m training.convert --arch wrn-10-1" in capsys.readouterr().err
    auto = ["--auto-agreement=0.9", f"--data-root={tmp_path}"]
    assert export([f"--ckpt={path}", f"--onnx={out}", "--classes=blue,green,red", *auto]) == 2
    assert f"{path}: a network without a block" in capsys.readouterr().err
    assert export([f"--ckpt={path}", f"--onnx={out}", "--classes=blue,green,red"]) == 0
    metadata = {item.key: item.value for item in onnx.load(out).metadata_props}
    assert file_sha256(path) in metadata.values()


def test_evaluation_takes_a_foreign_file_and_the_classes_of_its_pictures(
    tmp_path: Path, picture_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "x.pth", wide().state_dict())
    argv = [f"--ckpt={path}", f"--data-root={picture_folder}", "--pictures=6", "--device=cpu", "--attacks=clean"]
    assert evaluate(argv) == 2
    assert "weights of another program, does not say its data; pass --dataset" in capsys.readouterr().err
    assert evaluate([f"--ckpt={saved(tmp_path / 'state.pt', {})}", *argv[1:]]) == 2
    assert "is the state of a training; pass the model.safetensors beside it" in capsys.readouterr().err
    assert evaluate([*argv, "--dataset=image-folder", f"--transfer-from={path}"]) == 0
    setting = json.loads((tmp_path / "evaluation.json").read_text())["setting"]
    assert (setting["architecture"], setting["checkpoint_sha256"]) == ("wrn-10-1", file_sha256(path))
    four = saved(tmp_path / "four.pth", wide(4).state_dict())
    assert evaluate([f"--ckpt={four}", *argv[1:], "--dataset=image-folder"]) == 2
    assert "has 4 logits, and there are 3 classes" in capsys.readouterr().err
