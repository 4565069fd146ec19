"""--freeze-backbone: the block learns, and a head that was made anew; nothing else of the network changes."""

import pytest
import torch

from tests.needs_timm import backbones
from tests.training.checkpoints import save_untrained, tiny_info
from tests.training.tiny_run import arguments, failure
from training.checkpoint import load_checkpoint
from training.command import main
from training.common.command_line import OptionError
from training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("short_attacks")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("more", [(), ("--ema-decay=0.9", "--attack-view=smooth", "--plain-loss-share=0.3")])
def test_the_backbone_stays_to_the_last_bit_and_the_block_learns(picture_folder, runs, more, precision):
    # The network was made elsewhere: it normalises in another way than these pictures would need.
    info = tiny_info(method="standard", block=None)
    start = save_untrained(runs, info)
    network, _ = load_checkpoint(start)

    frozen = ("--freeze-backbone", f"--init-from={start}", f"--precision={precision}", *more)
    assert main(arguments(picture_folder, "block", *frozen, epochs=2)) == 0
    trained, described = load_checkpoint(runs / "block" / "model.safetensors")
    assert (described.mean, described.std) == (info.mean, info.std)
    assert described.recipe["precision"] == precision
    before = network.backbone.state_dict()
    for name, value in trained.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(trained.plain_logits(images), network.eval()(images))

    state = torch.load(runs / "block" / "state.pt", weights_only=True)
    assert trained.block is not None
    assert len(state["optimizer"]["param_groups"]) == 1
    assert len(state["optimizer"]["state"]) == len(list(trained.block.parameters()))
    assert any(entry["momentum_buffer"].abs().max() > 0 for entry in state["optimizer"]["state"].values())
    assert main(arguments(picture_folder, "block", *frozen, "--resume", epochs=2)) == 0


@pytest.mark.parametrize("arch", backbones("wrn-10-1", "timm:test_resnet"))
def test_a_head_that_is_made_anew_learns_with_the_block(picture_folder, runs, capsys, arch):
    """A head of random weights would make the frozen network useless, so it is no part of what stays."""
    start = save_untrained(
        runs, tiny_info(architecture=arch, method="standard", block=None, class_names=tuple("abcde"))
    )
    before = load_checkpoint(start)[0].backbone.state_dict()
    frozen = (f"--arch={arch}", "--freeze-backbone", f"--pretrained={start}", "--lr-schedule=cyclic")
    assert main(arguments(picture_folder, "a", *frozen, epochs=2)) == 0
    assert "head made anew for 3 classes instead of its 5" in capsys.readouterr().out

    def learnt() -> set[str]:
        after = load_checkpoint(runs / "a" / "model.safetensors")[0].backbone.state_dict()
        changed = {name for name, tensor in after.items() if tensor.shape != before[name].shape}
        assert all(torch.equal(after[name], before[name]) for name in after.keys() - changed)
        return changed

    assert len(learnt()) == 2, "weight and bias"
    state = torch.load(runs / "a" / "state.pt", weights_only=True)
    assert state["new_head"] == sorted(learnt())
    head, block = state["optimizer"]["param_groups"]
    assert len(head["params"]) == 2
    assert block["weight_decay"] == 0
    steps = [entry["momentum_buffer"].abs().max() for entry in state["optimizer"]["state"].values()]
    assert min(steps[:2]) > 0
    # A resumed run knows which tensors learn without the file.
    start.unlink()
    at_two = state["model"][f"backbone.{state['new_head'][0]}"]
    assert main(arguments(picture_folder, "a", *frozen, "--resume", epochs=3)) == 0
    after = torch.load(runs / "a" / "state.pt", weights_only=True)
    assert not torch.equal(after["model"][f"backbone.{state['new_head'][0]}"], at_two)
    assert len(learnt()) == 2


def test_what_cannot_be_frozen_is_refused(picture_folder, runs, capsys):
    with pytest.raises(OptionError, match="name its network by --init-from"):
        TrainConfig(freeze_backbone=True)
    with pytest.raises(OptionError, match="--weight-perturbation moves the backbone"):
        TrainConfig(freeze_backbone=True, init_from="x", weight_perturbation=0.01)
    error = failure(capsys, arguments(picture_folder, "a", "--freeze-backbone", "--method=pgd", "--init-from=x"))
    assert "--freeze-backbone does nothing for --method pgd; it is for self-gradient" in error
