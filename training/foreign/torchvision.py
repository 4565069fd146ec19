"""Key names of torchvision's networks, as rules that turn them into the names of timm's.

Each pair computes the same: tests/training/foreign/test_torchvision.py compares their logits.
ResNets, ResNeXts and DenseNets have the same names in both, so they need no rules.
"""

from training.foreign.spelling import Rules, Spelling

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that torchvision's weights are trained with.

Source: torchvision.transforms._presets.ImageClassification.
"""

TENSORFLOW_EPSILON = 1e-3
"""Epsilon of batch norm in torchvision's MobileNetV3, EfficientNetV2 and EfficientNet-B5 to -B7.

Source: torchvision.models.mobilenetv3 and torchvision.models.efficientnet.
"""


def _vgg() -> Rules:
    return (
        (r"^classifier\.0\.", "pre_logits.fc1."),
        (r"^classifier\.3\.", "pre_logits.fc2."),
        (r"^classifier\.6\.", "head.fc."),
    )


def _vision_transformer() -> Rules:
    return (
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.ln\.", "norm."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
        (r"\.self_attention\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
        (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
        (r"^heads\.head\.", "head."),
    )


def _convnext() -> Rules:
    rules = [
        (r"^features\.0\.(\d)\.", r"stem.\1."),
        (r"^classifier\.0\.", "head.norm."),
        (r"^classifier\.2\.", "head.fc."),
    ]
    for stage in range(4):
        rules += [
            (rf"^features\.{2 * stage}\.(\d)\.", rf"stages.{stage}.downsample.\1."),
            (rf"^features\.{2 * stage + 1}\.(\d+)\.", rf"stages.{stage}.blocks.\1."),
        ]
    inner = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}
    rules += [(rf"\.block\.{theirs}\.", f".{ours}.") for theirs, ours in inner.items()]
    return (*rules, (r"\.layer_scale$", ".gamma"))


def _swin() -> Rules:
    rules = [(r"^features\.0\.0\.", "patch_embed.proj."), (r"^features\.0\.2\.", "patch_embed.norm.")]
    for stage in range(4):
        rules += [
            (rf"^features\.{2 * stage}\.", f"layers.{stage}.downsample."),
            (rf"^features\.{2 * stage + 1}\.(\d+)\.", rf"layers.{stage}.blocks.\1."),
        ]
    return (*rules, (r"\.mlp\.0\.", ".mlp.fc1."), (r"\.mlp\.3\.", ".mlp.fc2."), (r"^head\.", "head.fc."))


def _inverted_residuals(place: str, position: str) -> Rules:
    """Return the rules of a block: depthwise alone where nothing widens it, else between two 1x1 convolutions.

    Args:
        place: Regular expression of the block's name.
        position: Our name of the block.
    """
    return (
        (rf"^{place}\.0\.0\.", f"{position}.conv_pw."),
        (rf"^{place}\.0\.1\.", f"{position}.bn1."),
        (rf"^{place}\.1\.0\.", f"{position}.conv_dw."),
        (rf"^{place}\.1\.1\.", f"{position}.bn2."),
        (rf"^{place}\.\d\.fc1\.", f"{position}.se.conv_reduce."),
        (rf"^{place}\.\d\.fc2\.", f"{position}.se.conv_expand."),
        (rf"^{place}\.[23]\.0\.", f"{position}.conv_pwl."),
        (rf"^{place}\.[23]\.1\.", f"{position}.bn3."),
    )


def _narrow(place: str, position: str) -> Rules:
    """Return the rules of a block that nothing widens: a depthwise convolution, then a 1x1 one."""
    return (
        (rf"^{place}\.0\.0\.", f"{position}.conv_dw."),
        (rf"^{place}\.0\.1\.", f"{position}.bn1."),
        (rf"^{place}\.\d\.fc1\.", f"{position}.se.conv_reduce."),
        (rf"^{place}\.\d\.fc2\.", f"{position}.se.conv_expand."),
        (rf"^{place}\.[12]\.0\.", f"{position}.conv_pw."),
        (rf"^{place}\.[12]\.1\.", f"{position}.bn2."),
    )


def _fused(place: str, position: str) -> Rules:
    """Return the rules of EfficientNetV2's block: a 3x3 convolution that widens, then a 1x1 one."""
    return (
        (rf"^{place}\.0\.0\.", f"{position}.conv_exp."),
        (rf"^{place}\.0\.1\.", f"{position}.bn1."),
        (rf"^{place}\.1\.0\.", f"{position}.conv_pwl."),
        (rf"^{place}\.1\.1\.", f"{position}.bn2."),
    )


def _stem() -> Rules:
    return ((r"^features\.0\.0\.", "conv_stem."), (r"^features\.0\.1\.", "bn1."))


def _efficientnet() -> Rules:
    rules = [*_stem(), *_narrow(r"features\.1\.(\d+)\.block", r"blocks.0.\1")]
    for stage in range(2, 8):
        rules += _inverted_residuals(rf"features\.{stage}\.(\d+)\.block", rf"blocks.{stage - 1}.\1")
    return (
        *rules,
        (r"^features\.8\.0\.", "conv_head."),
        (r"^features\.8\.1\.", "bn2."),
        (r"^classifier\.1\.", "classifier."),
    )


def _efficientnet_v2(stages: int) -> Rules:
    """Return the rules of an EfficientNetV2 of so many stages, of which the first three are fused."""
    rules = [
        *_stem(),
        (r"^features\.1\.(\d+)\.block\.0\.0\.", r"blocks.0.\1.conv."),
        (r"^features\.1\.(\d+)\.block\.0\.1\.", r"blocks.0.\1.bn1."),
    ]
    for stage in range(2, stages + 1):
        block = _fused if stage < 4 else _inverted_residuals
        rules += block(rf"features\.{stage}\.(\d+)\.block", rf"blocks.{stage - 1}.\1")
    return (
        *rules,
        (rf"^features\.{stages + 1}\.0\.", "conv_head."),
        (rf"^features\.{stages + 1}\.1\.", "bn2."),
        (r"^classifier\.1\.", "classifier."),
    )


def _positions(stages: tuple[int, ...]) -> list[str]:
    """Return our names of the blocks that torchvision numbers through."""
    return [f"blocks.{stage}.{index}" for stage, count in enumerate(stages) for index in range(count)]


def _mobilenet_v2() -> Rules:
    rules: list[tuple[str, str]] = [*_stem()]
    for number, position in enumerate(_positions((1, 2, 3, 4, 3, 3, 1)), 1):
        place = rf"features\.{number}\.conv"
        # The last convolution and its batch norm stand without a group of their own.
        if number == 1:
            rules += [
                *_narrow(place, position)[:2],
                (rf"^{place}\.1\.", f"{position}.conv_pw."),
                (rf"^{place}\.2\.", f"{position}.bn2."),
            ]
        else:
            rules += [
                *_inverted_residuals(place, position)[:4],
                (rf"^{place}\.2\.", f"{position}.conv_pwl."),
                (rf"^{place}\.3\.", f"{position}.bn3."),
            ]
    return (
        *rules,
        (r"^features\.18\.0\.", "conv_head."),
        (r"^features\.18\.1\.", "bn2."),
        (r"^classifier\.1\.", "classifier."),
    )


def _mobilenet_v3(stages: tuple[int, ...]) -> Rules:
    """Return the rules of a MobileNetV3 with so many blocks in each stage."""
    rules = [*_stem()]
    positions = _positions(stages)
    for number, position in enumerate(positions, 1):
        block = _narrow if number == 1 else _inverted_residuals
        rules += block(rf"features\.{number}\.block", position)
    last = len(positions) + 1
    return (
        *rules,
        (rf"^features\.{last}\.0\.", f"blocks.{len(stages)}.0.conv."),
        (rf"^features\.{last}\.1\.", f"blocks.{len(stages)}.0.bn1."),
        (r"^classifier\.0\.", "conv_head."),
        (r"^classifier\.3\.", "classifier."),
    )


def _spelling(rules: Rules, epsilon: float | None = None, largest_side: int | None = None) -> Spelling:
    return Spelling(
        "torchvision's",
        rules,
        reshapes=True,
        batch_norm_epsilon=epsilon,
        largest_side=largest_side,
        normalisation=IMAGENET,
    )


_B, _V3 = _efficientnet(), TENSORFLOW_EPSILON

VGG_SIDE = 224
"""Largest side of a VGG's pictures in pixels: features of larger ones are pooled to 7x7 by torchvision alone."""

TORCHVISION: dict[str, Spelling] = {
    **{
        f"vgg{depth}{norm}": _spelling(_vgg(), largest_side=VGG_SIDE)
        for depth in (11, 13, 16, 19)
        for norm in ("", "_bn")
    },
    **{
        f"vit_{size}_patch{patch}_224": _spelling(_vision_transformer())
        for size, patch in (("base", 16), ("base", 32), ("large", 16), ("large", 32), ("huge", 14))
    },
    **{f"convnext_{size}": _spelling(_convnext()) for size in ("tiny", "small", "base", "large")},
    **{f"swin_{size}_patch4_window7_224": _spelling(_swin()) for size in ("tiny", "small", "base")},
    **{f"efficientnet_b{number}": _spelling(_B, None if number < 5 else _V3) for number in range(8)},
    "efficientnetv2_s": _spelling(_efficientnet_v2(6), _V3),
    "efficientnetv2_m": _spelling(_efficientnet_v2(7), _V3),
    "efficientnetv2_l": _spelling(_efficientnet_v2(7), _V3),
    "mobilenetv2_100": _spelling(_mobilenet_v2()),
    "mobilenetv3_large_100": _spelling(_mobilenet_v3((1, 2, 3, 4, 2, 3)), _V3),
    "mobilenetv3_small_100": _spelling(_mobilenet_v3((1, 2, 3, 2, 3)), _V3),
}
"""Spellings by the name of the timm network that computes the same."""
