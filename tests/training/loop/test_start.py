"""Training starts from other weights: which head, which normalisation, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.needs_timm import NEEDS_TIMM
from tests.training.foreign.references import Normalised, WideReference, lively
from tests.training.tiny_run import arguments, failure
from training.checkpoint import build_model, load_checkpoint, save_checkpoint
from training.command import main
from training.common.command_line import OptionError
from training.config import FINETUNE, TIMM_WEIGHTS, TrainConfig
from training.foreign.errors import WeightsError
from training.foreign.loading import describe_foreign
from training.foreign.recognising import recognise
from training.loop.start import Start, read_start, take_over
from training.networks.errors import ArchitectureError
from training.options import checked, parse

pytestmark = pytest.mark.usefixtures("short_attacks")

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def foreign(path: Path, classes: int = 3) -> Path:
    torch.manual_seed(1)
    torch.save(Normalised(lively(WideReference(1, 1, classes)), MEAN, STD).state_dict(), path)
    return path


def started(start: Start, config: TrainConfig, names: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], str]:
    """Returns a backbone's state before and after, where equal tensors are those that stayed fresh, and the line."""
    info = describe_foreign(Path(__file__), config.arch, names, (MEAN, STD), (32, 32))
    torch.manual_seed(0)
    backbone = build_model(info).backbone
    line = take_over(start, backbone, info, config).line
    return backbone.state_dict(), line


def test_the_head_is_made_anew_for_other_classes_alone(tmp_path: Path) -> None:
    config = TrainConfig(arch="wrn-10-1", pretrained=str(foreign(tmp_path / "x.pth", 7)))
    start = read_start(config)
    assert start.normalisation is not None
    assert start.normalisation[0] == pytest.approx(MEAN)
    given = recognise(tmp_path / "x.pth", "--ckpt").match.tensors
    state, line = started(start, config, ("a", "b", "c"))
    torch.manual_seed(0)
    fresh = build_model(describe_foreign(Path(__file__), "wrn-10-1", ("a", "b", "c"), (MEAN, STD), (32, 32))).backbone
    for name, tensor in state.items():
        expected = fresh.state_dict()[name] if name.startswith("classifier.") else given[name]
        assert torch.equal(tensor, expected), name
    assert line.endswith("head made anew for 3 classes instead of its 7")
    state, line = started(start, config, tuple("abcdefg"))
    assert torch.equal(state["classifier.weight"], given["classifier.weight"])
    assert "head kept for its 7 classes, which nothing in it names" in line


def test_a_checkpoint_of_other_names_gets_a_new_head_too(tmp_path: Path) -> None:
    info = describe_foreign(Path(__file__), "wrn-10-1", ("a", "b"), (MEAN, STD), (32, 32))
    path = tmp_path / "model.safetensors"
    network = build_model(info)
    save_checkpoint(path, network.state_dict(), info)
    config = TrainConfig(arch="wrn-10-1", pretrained=str(path))
    start = read_start(config)
    assert start.normalisation == (MEAN, STD)
    state, line = started(start, config, ("a", "c"))
    assert not torch.equal(state["classifier.weight"], network.backbone.state_dict()["classifier.weight"])
    assert "head made anew for 2 classes" in line
    state, line = started(start, config, ("a", "b"))
    assert torch.equal(state["classifier.weight"], network.backbone.state_dict()["classifier.weight"])
    same_classes = replace(config, pretrained="", init_from=str(path))
    assert read_start(same_classes).normalisation is None, "--init-from takes the pictures' own, as ever"


def test_a_run_fine_tunes_a_foreign_file_and_keeps_its_normalisation(picture_folder, runs, tmp_path, capsys):
    path = foreign(tmp_path / "x.pth", 5)
    given = ("--method=standard", f"--pretrained={path}")
    assert main(arguments(picture_folder, "a", *given, epochs=1)) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"starts from {path}: read the normalisation from mu and sigma; ")
    assert first.endswith("head made anew for 3 classes instead of its 5")
    assert second == "recipe finetune sets --lr 0.01; given instead: --epochs 1, --lr-schedule cyclic"
    _, info = load_checkpoint(runs / "a" / "model.safetensors")
    assert info.mean == pytest.approx(MEAN)
    assert info.std == pytest.approx(STD)
    assert (info.recipe["recipe"], info.recipe["pretrained"], info.recipe["lr"]) == ("finetune", str(path), 0.01)
    path.unlink()  # a run goes on from its state alone
    assert main(arguments(picture_folder, "a", *given, "--resume", epochs=1)) == 0
    assert "nothing was left to train" in capsys.readouterr().out


def test_what_cannot_be_started_from_is_one_line_that_names_its_flag(picture_folder, runs, tmp_path, capsys):
    path = foreign(tmp_path / "x.pth", 5)
    common = ("--method=standard",)
    error = failure(capsys, arguments(picture_folder, "a", *common, f"--init-from={path}"))
    assert "its 5 classes are not these 3 classes (blue, green, red); pass it to --pretrained instead" in error
    error = failure(capsys, arguments(picture_folder, "a", *common, f"--pretrained={path}", "--arch=wrn-16-1"))
    assert f"--pretrained {path}: its weights are those of a wrn-10-1, not of a wrn-16-1; pass --arch wrn-10-1" in error
    error = failure(capsys, arguments(picture_folder, "a", f"--init-from={path}", "--freeze-backbone"))
    assert "pass it to --pretrained instead of --init-from, which makes the head anew" in error
    error = failure(capsys, arguments(picture_folder, "a", *common, "--pretrained=none.pth"))
    assert "weights of another program, to --pretrained" in error
    torch.save(WideReference(1, 1, 3).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(WeightsError, match=r"--pretrained .*run `python -m training.convert --arch wrn-10-1 --weights"):
        read_start(TrainConfig(arch="wrn-10-1", pretrained=str(tmp_path / "plain.pth")))
    read_start(TrainConfig(arch="wrn-10-1", init_from=str(tmp_path / "plain.pth")))
    with pytest.raises(OptionError, match="leave one of them away"):
        TrainConfig(init_from="x", pretrained="y")
    with pytest.raises(OptionError, match="--arch wrn-28-10 is none of timm's; name a file of weights by --pretrained"):
        TrainConfig(pretrained=TIMM_WEIGHTS)


def test_the_recipe_follows_from_pretrained_and_gives_way_to_what_is_given():
    def parsed(*flags: str) -> TrainConfig:
        return checked(parse(["--data-root=x", *flags]))

    assert parsed().recipe == "paper"
    for flags in (("--pretrained", "--arch=timm:resnet18"), ("--pretrained=x",), ("--recipe=finetune",)):
        config = parsed(*flags)
        assert config.recipe == "finetune"
        assert {name: getattr(config, name) for name in FINETUNE} == FINETUNE
    assert parsed("--pretrained", "--arch=timm:resnet18").pretrained == TIMM_WEIGHTS
    assert parsed("--pretrained=x", "--recipe=paper").epochs == 200
    assert parsed("--pretrained=x", "--lr=0.5").lr == 0.5


@NEEDS_TIMM
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])  # their normalisations differ
def test_a_plain_state_dict_of_timm_gives_the_checkpoint_timms_normalisation(
    name, picture_folder, runs, tmp_path, capsys
):
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model(name, num_classes=7).state_dict(), tmp_path / "x.pth")
    given = ("--method=standard", f"--arch=timm:{name}", f"--pretrained={tmp_path / 'x.pth'}")
    assert main(arguments(picture_folder, "a", *given, epochs=1)) == 0
    assert "(timm's for this network)" in capsys.readouterr().out
    configured = timm.get_pretrained_cfg(name)
    assert configured is not None
    network, info = load_checkpoint(runs / "a" / "model.safetensors")
    assert (info.mean, info.std) == (configured.mean, configured.std)
    assert configured.mean == ((0.5,) * 3 if name == "test_resnet" else (0.485, 0.456, 0.406))
    torch.testing.assert_close(network.mean.flatten(), torch.tensor(configured.mean))
    torch.testing.assert_close(network.std.flatten(), torch.tensor(configured.std))


@NEEDS_TIMM
def test_timms_weights_come_from_the_hubs_cache_and_else_the_file_is_named(tmp_path, monkeypatch):
    import timm
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    config = TrainConfig(arch="timm:resnet10t", pretrained=TIMM_WEIGHTS)
    with pytest.raises(ArchitectureError) as caught:
        read_start(config)
    for part in ("there is no network", "save model.safetensors of timm/resnet10t.c3_in1k", "--pretrained FILE"):
        assert part in str(caught.value)

    torch.manual_seed(0)
    offered = timm.create_model("resnet10t")
    snapshot = tmp_path / "models--timm--resnet10t.c3_in1k" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--timm--resnet10t.c3_in1k" / "refs").mkdir()
    (tmp_path / "models--timm--resnet10t.c3_in1k" / "refs" / "main").write_text("0")
    save_file(offered.state_dict(), snapshot / "model.safetensors")
    start = read_start(config)
    assert (start.classes, start.normalisation) == (1000, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    state, line = started(start, config, ("a", "b"))
    assert torch.equal(state["layer1.0.conv1.weight"], offered.state_dict()["layer1.0.conv1.weight"])
    assert line.endswith("head made anew for 2 classes instead of its 1000")
