"""Files of other programs are read as they are, or refused in a line that names what is wrong with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.needs_timm import NEEDS_TIMM
from tests.training import checkpoints
from tests.training.foreign.references import Normalised, WideReference, lively
from training.foreign.errors import WeightsError
from training.foreign.guessing import guess_architecture
from training.foreign.loading import load_network
from training.foreign.reading import read_weights
from training.foreign.recognising import recognise

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return lively(WideReference(1, 1, 5)).state_dict()


def saved(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "x.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            lambda state: {name: tensor.to("meta") for name, tensor in state.items()},
            "conv1.weight has a shape and no values",
        ),
        (
            lambda state: {**{f"net.{name}": tensor for name, tensor in state.items()}, "loss.weight": torch.ones(5)},
            "all names but loss.weight begin with 'net.'; save the model without it, and without what is",
        ),
        (
            lambda state: (
                {f"{model}.{name}": tensor for model in ("online_model", "ema_model") for name, tensor in state.items()}
                | {"step": torch.tensor(5), "initted": torch.tensor(True)}
            ),
            "2 models whose tensors have the same names, 'online_model' and 'ema_model'; save those of one",
        ),
    ],
    ids=["meta", "Lightning with a loss", "ema_pytorch"],
)
def test_what_is_no_single_model_is_told(
    changed: Callable[[dict[str, Tensor]], Any], said: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=said):
        recognise(saved(tmp_path, changed(state)), "--ckpt")


def test_a_sparse_tensor_is_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    sparse = {**state, "fc.weight": state["fc.weight"].to_sparse()}
    assert torch.equal(read_weights(saved(tmp_path, sparse)).tensors["fc.weight"], state["fc.weight"])


def test_averaged_weights_that_are_not_taken_are_told(state: dict[str, Tensor], tmp_path: Path) -> None:
    weights = read_weights(saved(tmp_path, {"state_dict": state, "state_dict_ema": state}))
    assert weights.notes == ("took what it holds under 'state_dict', and not 'state_dict_ema'",)
    weights = read_weights(saved(tmp_path, {"state_dict_ema": state, "epoch": 3}))
    assert weights.notes == ("took what it holds under 'state_dict_ema'",)


def test_safetensors_of_another_name_are_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    safetensors.torch.save_file(state, tmp_path / "x.pt")
    assert read_weights(tmp_path / "x.pt").tensors.keys() == state.keys()


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_pointer_of_git_lfs_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n")
    with pytest.raises(WeightsError, match="only a pointer of Git LFS; fetch the file itself with git lfs pull"):
        read_weights(tmp_path / name)


def test_a_pointer_of_git_lfs_is_told_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n")
    with pytest.raises(WeightsError, match="only a pointer of Git LFS"):
        load_network(tmp_path / "x.safetensors")


def test_a_checkpoint_of_this_project_under_another_name_is_told(tmp_path: Path) -> None:
    path = checkpoints.save_untrained(tmp_path, checkpoints.tiny_info()).rename(tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"a checkpoint of this project already; rename it to x\.safetensors"):
        load_network(path)


@pytest.mark.parametrize("offset", [6, 46])
def test_a_damaged_table_of_contents_is_told(offset: int, state: dict[str, Tensor], tmp_path: Path) -> None:
    """The version that is needed, and a byte of a name: zipfile raises another kind of error for each."""
    path = saved(tmp_path, state)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = 0xFF
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_is_told(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), tmp_path / "x.pt")
    recwarn.clear()
    with pytest.raises(WeightsError, match="a TorchScript program, not weights alone; open it with"):
        read_weights(tmp_path / "x.pt")
    assert not recwarn.list, "PyTorch's own words would stand above ours"


def test_a_normalisation_of_whole_pixel_values_is_that_of_pictures_in_0_to_1(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = Normalised(lively(WideReference(1, 1, 5)), MEAN, STD)
    weights = read_weights(saved(tmp_path, reference.state_dict()))
    assert weights.mean == pytest.approx([value / 255 for value in MEAN])
    assert weights.std == pytest.approx([value / 255 for value in STD])
    assert "divided both by 255, because they are for pixels from 0 to 255" in weights.notes
    scaled = Normalised(lively(WideReference(1, 1, 5)), (0.0,) * 3, (255.0,) * 3)
    assert read_weights(saved(tmp_path, scaled.state_dict())).std == (1.0, 1.0, 1.0)
    for std in (1.0, 2.0):
        usual = Normalised(lively(WideReference(1, 1, 5)), (0.0,) * 3, (std,) * 3)
        assert read_weights(saved(tmp_path, usual.state_dict())).std == (std,) * 3


def test_statistics_of_a_metric_are_no_normalisation(state: dict[str, Tensor], tmp_path: Path) -> None:
    weights = read_weights(saved(tmp_path, {"metric.mean": torch.ones(3), "metric.std": torch.ones(3), **state}))
    assert weights.mean is None
    assert {"metric.mean", "metric.std"} <= weights.tensors.keys()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("block1.layer.0.bn1.running_var", -1.0, "bn1.running_var holds numbers below 0, which no variance is"),
        ("block1.layer.0.bn1.running_var", float("inf"), "not all of its numbers are finite"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(
    name: str, value: float, said: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    wrong = {**state, name: torch.full_like(state[name], value)}
    with pytest.raises(WeightsError, match=said):
        recognise(saved(tmp_path, wrong), "--ckpt")


def test_a_wrong_shape_of_batch_norm_is_not_taken_for_the_classifiers(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"do not fit wrn-10-1 \(other shape: bn1.weight is \(7,\) in the file"):
        recognise(saved(tmp_path, {**state, "bn1.weight": torch.ones(7)}), "--ckpt")


@NEEDS_TIMM
def test_the_nearest_network_is_named_with_what_does_not_fit() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        network = torchvision.models.resnet34()
        network.fc = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(512, 3))
    with pytest.raises(WeightsError) as refused:
        guess_architecture(network.state_dict())
    assert "these are nearest to timm:resnet34, but 4 of its or the network's tensors do not fit" in str(refused.value)
    assert "fc.weight" in str(refused.value)


@NEEDS_TIMM
def test_a_transformer_of_another_size_is_told_with_the_option() -> None:
    import timm

    with torch.device("meta"):
        network = timm.create_model("vit_small_patch16_224", num_classes=3, img_size=96)
    with pytest.raises(WeightsError, match=r"of timm:vit_small_patch16_224 for pictures of another size; pass --arch"):
        guess_architecture(network.state_dict())
