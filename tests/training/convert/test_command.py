"""Weights of other programs become checkpoints with the same logits, or each tensor that does not fit is listed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from export.exporter import export_onnx
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import read_graph
from tests.needs_timm import NEEDS_TIMM
from tests.training.foreign.references import (
    OTHER_SPELLING,
    SHORTCUT_AND_LINEAR,
    Normalised,
    PreActReference,
    ResNetReference,
    WideReference,
    lively,
)
from training.checkpoint import CheckpointError, load_checkpoint
from training.convert.command import main
from training.evaluate.command import main as evaluate
from training.networks.backbones import build_backbone
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

pytestmark = pytest.mark.usefixtures("short_attacks")

CLASSES = "ant,bee,cat,dog,elk"
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def pictures(size: int = 32) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def converted(tmp_path: Path, state: Any, *options: str, classes: str = CLASSES, suffix: str = ".pt") -> Path:
    """Saves a state dict, converts it, and returns the checkpoint."""
    weights, out = tmp_path / f"foreign{suffix}", tmp_path / "runs" / "x" / "model.safetensors"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, weights)
    else:
        torch.save(state, weights)
    assert main(["--weights", str(weights), "--classes", classes, "--out", str(out), *options]) == 0
    return out


def logits(checkpoint: Path, images: Tensor) -> Tensor:
    with torch.no_grad():
        return load_checkpoint(checkpoint)[0](images)


def assert_same(checkpoint: Path, reference: Callable[[Tensor], Tensor], images: Tensor) -> None:
    with torch.no_grad():
        expected = reference(images)
    torch.testing.assert_close(logits(checkpoint, images), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01, "the reference tells pictures apart"


@pytest.mark.parametrize(
    ("wrapped", "said"),
    [
        (lambda state: state, "took it for wrn-10-2"),
        (lambda state: {"epoch": 7, "state_dict": state}, "under 'state_dict'"),
        (lambda state: {"model": {f"module.{name}": value for name, value in state.items()}}, "prefix 'module.'"),
        (lambda state: {"net": {f"_orig_mod.{name}": value for name, value in state.items()}}, "prefix '_orig_mod.'"),
        (lambda state: {"ema": state, "model_state_dict": state}, "under 'model_state_dict', and not 'ema'"),
        (lambda state: {"ema": state, "epoch": 7}, "took what it holds under 'ema'\n"),
        (lambda state: {name: value.half() for name, value in state.items()}, "took it for wrn-10-2"),
    ],
    ids=["bare", "state_dict", "data parallel", "compiled", "two", "ema", "half"],
)
def test_a_wide_resnet_in_every_wrapping(
    wrapped: Callable[[dict[str, Tensor]], Any],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    reference = lively(WideReference(1, 2, 5)).half().float()  # half precision holds its weights
    checkpoint = converted(tmp_path, wrapped(reference.state_dict()))
    printed = capsys.readouterr().out
    assert said in printed
    assert "pass --mean and --std" in printed
    assert_same(checkpoint, reference, pictures())
    _, info = load_checkpoint(checkpoint)
    assert (info.architecture, info.class_names, info.image_size) == ("wrn-10-2", tuple(CLASSES.split(",")), (32, 32))
    assert (info.mean, info.std, info.block) == ((0, 0, 0), (1, 1, 1), None)


def test_tensors_that_trades_never_uses_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    reference = lively(WideReference(1, 1, 5, twin=True))
    assert_same(converted(tmp_path, reference.state_dict()), reference, pictures())
    assert "that no forward pass reads, such as sub_block1.layer.0.bn1.weight" in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("bn_before_fc", [False, True])
def test_each_form_of_preact_resnet_18(of_input: bool, bn_before_fc: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = lively(PreActReference(5, of_input, bn_before_fc))
    arch = f"preact-resnet-18{'-v1' * of_input}{'-nonorm' * (not bn_before_fc)}"
    assert_same(converted(tmp_path, reference.state_dict(), "--arch", arch), reference, pictures())


@pytest.mark.parametrize("of_input", [False, True])
def test_preact_resnet_18_in_the_other_spelling(of_input: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = lively(PreActReference(5, of_input, True, OTHER_SPELLING))
    assert {"fc.weight", "layer2.0.downsample.0.weight"} <= reference.state_dict().keys()
    arch = f"preact-resnet-18{'-v1' * of_input}"
    assert_same(converted(tmp_path, reference.state_dict(), "--arch", arch), reference, pictures())


def test_which_preact_resnet_18_is_not_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(PreActReference(5, True, False).state_dict(), tmp_path / "x.pt")
    out = tmp_path / "model.safetensors"
    assert main(["--weights", str(tmp_path / "x.pt"), "--classes", CLASSES, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "--arch preact-resnet-18-nonorm where" in error
    assert "or --arch preact-resnet-18-v1-nonorm where" in error
    assert not out.exists()


@pytest.mark.parametrize("spelling", [SHORTCUT_AND_LINEAR, OTHER_SPELLING], ids="-".join)
def test_resnet_18(spelling: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    reference = lively(ResNetReference(5, spelling))
    assert {f"layer2.0.{spelling[0]}.1.weight", f"{spelling[1]}.weight"} <= reference.state_dict().keys()
    assert_same(converted(tmp_path, reference.state_dict(), suffix=".safetensors"), reference, pictures())
    assert "took it for resnet-18" in capsys.readouterr().out


def test_a_normalisation_inside_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    reference = Normalised(lively(WideReference(1, 1, 5)), MEAN, STD).eval()
    checkpoint = converted(tmp_path, reference.state_dict())
    assert "read the normalisation from mu and sigma" in capsys.readouterr().out
    assert_same(checkpoint, reference, pictures())
    assert load_checkpoint(checkpoint)[1].mean == pytest.approx(MEAN)


def test_the_whole_model_twice_as_madrylabs_library_saves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    inner = lively(WideReference(1, 1, 5))
    layer = {"new_mean": torch.tensor(MEAN).view(3, 1, 1), "new_std": torch.tensor(STD).view(3, 1, 1)}
    state: dict[str, Tensor] = {}
    for prefix, normaliser in (("", "normalizer"), ("attacker.", "normalize")):
        state |= {f"module.{prefix}{normaliser}.{name}": value for name, value in layer.items()}
        state |= {f"module.{prefix}model.{name}": value for name, value in inner.state_dict().items()}
    checkpoint = converted(tmp_path, {"model": state, "epoch": 3})
    assert "which are copies" in capsys.readouterr().out
    assert_same(checkpoint, Normalised(inner, MEAN, STD).eval(), pictures())


def test_mean_and_std_of_the_command_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inner = lively(WideReference(1, 1, 5))
    given = ("--mean", "0.49,0.48,0.45", "--std", "0.25,0.24,0.26")
    checkpoint = converted(tmp_path, inner.state_dict(), *given)
    assert_same(checkpoint, Normalised(inner, MEAN, STD).eval(), pictures())


@pytest.mark.thorough
@NEEDS_TIMM
@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_torchvisions_networks_are_timms(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    reference = lively(getattr(torchvision.models, name)(num_classes=5))
    checkpoint = converted(tmp_path, reference.state_dict(), "--image-size", "64")
    assert f"took it for timm:{name}" in capsys.readouterr().out
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert_same(checkpoint, Normalised(reference, mean, std).eval(), pictures(64))


@NEEDS_TIMM
def test_a_transformer_of_timm(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    reference = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32).eval()
    options = ("--arch", "timm:vit_tiny_patch16_224", "--image-size", "32")
    checkpoint = converted(tmp_path, reference.state_dict(), *options)
    assert_same(checkpoint, Normalised(reference, (0.5,) * 3, (0.5,) * 3).eval(), pictures())


@pytest.mark.thorough
def test_a_converted_network_is_exported_and_served_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = lively(WideReference(1, 1, 5))
    checkpoint = converted(tmp_path, reference.state_dict())
    assert export_onnx(checkpoint, tmp_path / "model.onnx").passed
    served = Classifier(read_graph(tmp_path / "model.onnx"), ("cpu",), 1)
    found = served.logits(pictures().numpy(), self_gradient=False).plain
    with torch.no_grad():
        np.testing.assert_allclose(found, reference(pictures()).numpy(), rtol=1e-3, atol=1e-4)


def test_a_converted_network_is_judged_as_it_is(
    tmp_path: Path, picture_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    state = lively(WideReference(1, 1, 3)).state_dict()
    checkpoint = converted(tmp_path, state, "--image-size", "8", "--epsilon", "8/255", classes="blue,green,red")
    argv = [f"--ckpt={checkpoint}", f"--data-root={picture_folder}", "--pictures=6", "--device=cpu"]
    assert evaluate([*argv, "--attacks", "fgsm", f"--report={tmp_path / 'judged'}"]) == 0
    report = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert (report["setting"]["method"], report["lowest"].keys()) == ("converted", {"block off"})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_whoever_passes_foreign_weights_is_sent_here(suffix: str, tmp_path: Path) -> None:
    state = WideReference(1, 1, 3).state_dict()
    converted(tmp_path, state, classes="a,b,c", suffix=suffix)
    with pytest.raises(CheckpointError, match=r"converted by `python -m training.convert`"):
        load_checkpoint(tmp_path / f"foreign{suffix}")


def test_a_block_is_added_where_it_is_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = lively(WideReference(1, 1, 5))
    network, info = load_checkpoint(converted(tmp_path, reference.state_dict(), "--add-block"))
    assert info.block is not None
    with torch.no_grad():
        torch.testing.assert_close(network(pictures(), self_gradient=False), reference(pictures()))
        assert not torch.allclose(network(pictures()), reference(pictures()))


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, *options: str) -> list[str]:
    """Converts what must be refused, and returns the lines of the message."""
    torch.save(content, tmp_path / "x.pt")
    out = tmp_path / "out.safetensors"
    given = ["--weights", str(tmp_path / "x.pt"), "--classes", CLASSES, "--out", str(out), *options]
    assert main(given) == 2
    assert not out.exists()
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()


def test_every_tensor_that_does_not_fit_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = WideReference(1, 1, 5).state_dict()
    state["block1.layer.0.conv9.weight"] = state.pop("block1.layer.0.conv1.weight")
    state["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    lines = refused(tmp_path, capsys, state, "--arch", "wrn-10-1")
    assert lines[0].startswith("  missing: groups.0.0.conv1.weight (nearest: block1.layer.0.conv9.weight")
    assert lines[1].startswith("  left over: block1.layer.0.conv9.weight (nearest: groups.0.0.conv1.weight")
    assert lines[2] == "  other shape: conv1.weight is (16, 3, 5, 5) in the file, and (16, 3, 3, 3) in the network"
    assert lines[3].startswith(f"error: {tmp_path}/x.pt: 3 of its or the network's tensors do not fit wrn-10-1; save")


def test_a_missing_tensor_is_named_as_the_file_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = WideReference(1, 1, 5).state_dict()
    del state["block2.layer.0.bn1.weight"]
    line, error = refused(tmp_path, capsys, state, "--arch", "wrn-10-1")
    assert line == "  missing: groups.1.0.norm1.weight (in the file it would be block2.layer.0.bn1.weight)"
    assert error.endswith("do not fit wrn-10-1; save model.state_dict() again, whole, or pass another --arch")


def test_a_missing_tensor_of_ones_own_names_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = build_backbone("wrn-10-1", 5).state_dict()
    del state["groups.0.0.norm1.running_mean"]
    line, _ = refused(tmp_path, capsys, state, "--arch", "wrn-10-1")
    assert line == "  missing: groups.0.0.norm1.running_mean"


@pytest.mark.parametrize("arch", ["wrn-10-2", "wrn-16-1", "resnet-18"])
def test_this_projects_own_state_dict_is_recognised(
    arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    backbone = lively(build_backbone(arch, 5))
    checkpoint = converted(tmp_path, backbone.state_dict())
    assert f"took it for {arch}, by its names and shapes" in (printed := capsys.readouterr().out)
    assert "names: this project's\n" in printed
    assert_same(checkpoint, backbone, pictures())
    network = load_checkpoint(checkpoint)[0]
    assert_same(converted(tmp_path, network.state_dict(), "--arch", arch), backbone, pictures())
    assert "names: this project's\n" in capsys.readouterr().out


@pytest.mark.parametrize(("of_input", "nonorm"), [("", ""), ("-v1", ""), ("", "-nonorm")])
def test_which_preact_resnet_18_of_this_projects_names_is_asked(
    of_input: str, nonorm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arch = f"preact-resnet-18{of_input}{nonorm}"
    state = build_backbone(arch, 5).state_dict()
    (error,) = refused(tmp_path, capsys, state)
    assert f"--arch preact-resnet-18{nonorm} where" in error
    assert f"or --arch preact-resnet-18-v1{nonorm} where" in error
    converted(tmp_path, state, "--arch", arch)
    assert "names: this project's\n" in capsys.readouterr().out


def test_a_network_with_a_block_is_no_foreign_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = SelfGradientNetwork(build_backbone("wrn-10-1", 5), SelfGradientBlock()).state_dict()
    for options in ((), ("--arch", "wrn-10-1")):
        (error,) = refused(tmp_path, capsys, whole, *options)
        assert "network with a self-gradient block, whose form no tensor tells; take the model.safetensors" in error


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("nofile.txt", "--classes nofile.txt: there is no such file; pass a,b,c, cifar10 or a file with a name a line"),
        ("no/such", "--classes no/such: there is no such file"),
        ("folder", "--classes folder: it is a folder"),
        ("binary.txt", "--classes binary.txt: it is no text"),
        ("cifar1O", "--classes 'cifar1O' names 1 class; did you mean cifar10? pass a,b,c, cifar10 or a file of names"),
        ("ant", "--classes 'ant' names 1 class; pass a,b,c"),
    ],
)
def test_names_of_classes_that_are_none(
    classes: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("binary.txt").write_bytes(b"\xff\xfe\x00a")
    torch.save(WideReference(1, 1, 5).state_dict(), "x.pt")
    assert main(["--weights=x.pt", f"--classes={classes}", "--out=o.safetensors"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_another_architecture_is_named_instead_of_all_its_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (error,) = refused(tmp_path, capsys, WideReference(1, 1, 5).state_dict(), "--arch", "wrn-16-2")
    assert error.endswith("its weights are those of a wrn-10-1, not of a wrn-16-2; pass --arch wrn-10-1")


class NoTensor:
    """An object whose pickle names a class, which reading it would import."""


def test_what_cannot_be_converted_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = WideReference(1, 1, 5).state_dict()
    nan = {**state, "fc.bias": torch.full((5,), float("nan"))}
    deepmind = {"init_conv.weight": torch.zeros(1), "layer.0.block.0.batchnorm_0.weight": torch.zeros(1)}
    for content, options, said in (
        (WideReference(1, 1, 7).state_dict(), (), "has 7 logits, and --classes names 5; name 7 classes"),
        (nan, (), "not all of its numbers are finite"),
        (deepmind, (), "DeepMind's WideResNet or PreActResNet, which pads convolutions of stride 2 on one side"),
        ({**state, "fc.weight": state["fc.weight"].to(torch.int8)}, (), "fc.weight has int8 numbers, as quantised"),
        ({"epoch": 3, "loss": 0.5}, (), "no state dict in it (it has the keys epoch, loss; looked for state_dict"),
        ({**state, "args": [1]}, (), "not all of its state dict are tensors, such as args (list)"),
        (NoTensor(), (), "not a file of tensors alone (it holds a "),
        ({"a.weight": torch.zeros(3)}, (), "no architecture is known by these tensors (a.weight, ...); pass --arch"),
        (state, ("--mean", "0,0,0"), "--mean and --std belong together"),
        (state, ("--mean", "0,0,0", "--std", "1,0,1"), "must be above 0"),
        (state, ("--arch", "wrn-11-1"), "unknown architecture 'wrn-11-1'"),
    ):
        *_, line = refused(tmp_path, capsys, content, *options)
        assert line.startswith("error: ")
        assert said in line


def test_files_that_are_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pt").write_text("nothing")
    (tmp_path / "letters.pt").write_text("even text")  # torch.load answers with "pop from empty list"
    (tmp_path / "text.safetensors").write_text("nothing")
    torch.save(dict.fromkeys(("config", "progress", "model", "optimizer", "data"), 0), tmp_path / "state.pt")
    torch.save({}, tmp_path / "empty.pt")
    ours = converted(tmp_path, WideReference(1, 1, 5).state_dict())
    capsys.readouterr()
    for weights, said in (
        (tmp_path / "none.pt", "no such file; pass the weights to --weights"),
        (tmp_path / "text.pt", "it is damaged, or none at all"),
        (tmp_path / "letters.pt", "letters.pt: not a file that torch.save wrote, or damaged; copy or save it again"),
        (tmp_path / "text.safetensors", "not a safetensors file"),
        (ours, "is a checkpoint of this project already; use it as it is"),
        (tmp_path / "state.pt", "the state of an unfinished training; pass the model.safetensors beside it"),
        (tmp_path / "empty.pt", "it has an empty dictionary"),
        (tmp_path, "a folder, not a file"),
    ):
        assert main(["--weights", str(weights), "--classes", CLASSES, "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
    assert main(["--weights", str(ours), "--classes", CLASSES, "--out", str(ours)]) == 2
    assert "is the file of --weights itself" in capsys.readouterr().err
    graph = tmp_path / "graph.onnx"
    assert main(["--weights", str(tmp_path / "x.pt"), "--classes", CLASSES, "--out", str(graph)]) == 2
    assert "pass a name that ends in .safetensors" in capsys.readouterr().err
    assert not graph.exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "x.pt: cannot be read (Permission denied); check the file"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
            "out of memory on cpu",
        ),
        (KeyError(101), "not a file that torch.save wrote, or damaged"),
    ],
)
def test_what_cannot_be_read_is_no_damage(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    weights = tmp_path / "x.pt"
    torch.save(WideReference(1, 1, 5).state_dict(), weights)
    monkeypatch.setattr(torch, "load", load)
    assert main(["--weights", str(weights), "--classes", CLASSES, "--out", str(tmp_path / "o.safetensors")]) == 2
    assert said in capsys.readouterr().err


def test_a_flipped_bit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "x.pt"
    torch.save(WideReference(1, 1, 5).state_dict(), weights)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 4
    weights.write_bytes(content)
    assert main(["--weights", str(weights), "--classes", CLASSES, "--out", str(tmp_path / "o.safetensors")]) == 2
    assert "does not have its checksum; copy or save it again" in capsys.readouterr().err


def test_the_network_of_a_training_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = converted(tmp_path, WideReference(1, 1, 5).state_dict())
    converted(tmp_path, WideReference(1, 1, 5).state_dict())  # what was converted before is
    before = out.read_bytes()
    out.with_name("state.pt").write_bytes(b"")
    capsys.readouterr()
    assert main(["--weights", str(tmp_path / "foreign.pt"), "--classes", CLASSES, "--out", str(out)]) == 2
    assert capsys.readouterr().err.endswith(
        f"--out {out} is the network of a training, which could not be resumed; pass another\n"
    )
    assert out.read_bytes() == before


def test_classes_by_name_by_list_and_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("one\ntwo\n\nthree\n")
    state = WideReference(1, 1, 3).state_dict()
    _, info = load_checkpoint(converted(tmp_path, state, classes=str(tmp_path / "names.txt")))
    assert info.class_names == ("one", "two", "three")
    _, info = load_checkpoint(converted(tmp_path, WideReference(1, 1, 10).state_dict(), classes="cifar10"))
    assert (info.class_names[3], info.dataset, info.recipe["dataset"]) == ("cat", "CIFAR-10", "cifar10")
    for text, said in (
        ("a", "names 1 class; pass"),
        ("a,b,a", "names 'a' twice"),
        ("a,,b", "'a,,b' has an empty name"),
    ):
        assert main(["--weights", "x.pt", "--classes", text, "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--mean", "--std"])
def test_a_normalisation_of_whole_numbers_is_refused(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--weights", "x.pt", "--classes", CLASSES, "--out", str(tmp_path / "out"), flag, "125,120,110"])
    assert "for pixels from 0 to 255, and they are from 0 to 1; divide by 255" in capsys.readouterr().err
