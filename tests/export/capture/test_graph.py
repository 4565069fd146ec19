import pytest
import torch
from torch import Tensor, fx, nn

from export.capture.graph import capture
from export.check.pictures import structured_pictures
from export.check.verify import Verification, verify
from export.errors import CaptureError
from export.formats.onnx import to_onnx
from export.network_passes import Passes, passes_of
from export.options import PICTURES
from tests.export.networks import IMAGE_SIZE, SecondSmallest, checkpoint_info, network_around, randomise
from training.checkpoint import build_model
from training.networks.names import GradientScaling
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork

SMALL = (8, 8)


def small_network(
    gradient_scaling: GradientScaling = "rms", scale: float = 1.0, block: bool = True
) -> SelfGradientNetwork:
    """Return a network whose block changes the logits much, whatever the scaling."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))
    classifier = nn.Linear(8 * 4 * 4, 10)
    classifier.weight.data *= 30
    backbone = nn.Sequential(*layers, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), classifier)
    return randomise(
        SelfGradientNetwork(
            backbone, SelfGradientBlock(scale=scale, gradient_scaling=gradient_scaling) if block else None
        )
    )


def verification_of(network: SelfGradientNetwork, image_size: tuple[int, int] = IMAGE_SIZE) -> Verification:
    """Capture a network and compare the graph with it."""
    passes = passes_of(network)
    return compare(passes, capture(passes, image_size), image_size)


def compare(passes: Passes, graph: fx.GraphModule, image_size: tuple[int, int]) -> Verification:
    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(zip(passes.output_names, graph(images), strict=True))

    return verify(run, passes, structured_pictures(PICTURES, 3, image_size))


@pytest.mark.parametrize("gradient_scaling", ["none", "rms"])
@pytest.mark.parametrize("scale", [1.0, 8 / 255])
def test_computes_what_the_network_computes(gradient_scaling: GradientScaling, scale: float) -> None:
    network = small_network(gradient_scaling, scale)
    pictures = structured_pictures(PICTURES, 3, SMALL)
    with torch.no_grad():
        effect = (network(pictures) - network.plain_logits(pictures)).abs().max()
    assert effect > 0.01  # a block that did nothing would make the next line easy

    assert verification_of(network, SMALL).passed


def test_any_backbone(varied: tuple[Passes, fx.GraphModule]) -> None:
    assert compare(*varied, IMAGE_SIZE).passed


def test_torchvisions_resnet_of_one_block_a_group() -> None:
    """The second block of each group has no layer of another kind."""
    from torchvision.models.resnet import BasicBlock, ResNet

    assert verification_of(network_around(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10))).passed


def test_a_network_without_block_is_one_pass() -> None:
    verification = verification_of(small_network(block=False), SMALL)
    assert verification.passed
    assert {check.output for check in verification.checks} == {"plain_logits"}


def test_weights_keep_their_names_and_the_network_stays_as_it_was() -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph = capture(passes_of(network), SMALL)
    assert graph.get_parameter("network.backbone.0.weight") is network.get_parameter("backbone.0.weight")
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.thorough
def test_nothing_stands_between_an_operator_and_its_gradient(captured_graph: fx.GraphModule) -> None:
    assert not {"aten.alias.default", "aten.detach.default"} & {str(node.target) for node in captured_graph.graph.nodes}


def test_training_mode_is_refused() -> None:
    network = build_model(checkpoint_info()).train()
    with pytest.raises(CaptureError, match=r"training mode.*\.eval\(\)"):
        capture(passes_of(network), IMAGE_SIZE)


def test_what_cannot_be_written_is_named() -> None:
    network = network_around(
        nn.Sequential(nn.Conv2d(3, 4, 3), SecondSmallest(), nn.Flatten(), nn.Linear(4 * 30 * 30, 10))
    )
    graph = capture(passes_of(network), IMAGE_SIZE)
    with pytest.raises(CaptureError, match="kthvalue"):
        to_onnx(graph, {})


class FlattenByLength(nn.Module):
    """Asks Python for the batch size, which gets a fixed number."""

    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(len(images), -1)


def test_a_layer_that_fixes_the_batch_size_is_named() -> None:
    network = network_around(nn.Sequential(nn.Conv2d(3, 1, 3), FlattenByLength(), nn.Linear(900, 10)))
    with pytest.raises(CaptureError, match=r"layer backbone\.1 \(FlattenByLength\) fixes the batch size, as len\(x\)"):
        capture(passes_of(network), IMAGE_SIZE)
