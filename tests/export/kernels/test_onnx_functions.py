"""Compare the ONNX node with reference.py: its body of standard operators, and the kernels' library."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from export.kernels import onnx_functions, reference
from tests.export.kernels.cases import DTYPES, assert_close, normal
from training.networks.self_gradient import SelfGradientBlock

Sizes = tuple[int, int, int, int]

PICTURE_SIZES = ((1, 3, 32, 32), (2, 4, 5, 13), (3, 1, 1, 1), (2, 3, 61, 67), (0, 3, 4, 4))
ELEMENT_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
}


def model_of(
    name: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, torch.dtype], function: Any, **attributes: Any
) -> ModelProto:
    """Return a model of one node. NumPy has no bfloat16, so inputs and outputs are float32, cast in the graph."""
    nodes = [
        helper.make_node("Cast", [f"{key}_given"], [key], to=ELEMENT_TYPES[tensor.dtype])
        for key, tensor in inputs.items()
    ]
    nodes.append(helper.make_node(name, list(inputs), list(outputs), domain=onnx_functions.DOMAIN, **attributes))
    nodes += [helper.make_node("Cast", [key], [f"{key}_taken"], to=TensorProto.FLOAT) for key in outputs]
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(f"{key}_given", TensorProto.FLOAT, [None] * tensor.dim())
            for key, tensor in inputs.items()
        ],
        [helper.make_tensor_value_info(f"{key}_taken", TensorProto.FLOAT, [None] * 4) for key in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnx_functions.OPSET)], ir_version=10)
    onnx_functions.add_function(model, function)
    onnx.checker.check_model(model)
    return model


def run(
    model: ModelProto, inputs: Mapping[str, Tensor], library: Path | None, folder: Path
) -> tuple[list[Tensor], Sequence[str]]:
    """Return the outputs, and the operators that ONNX Runtime ran."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {f"{key}_given": tensor.float().numpy() for key, tensor in inputs.items()})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})]
    return [torch.from_numpy(output) for output in outputs], ran


@pytest.fixture(params=["bodies", "library"])
def library(request: pytest.FixtureRequest) -> Path | None:
    return None if request.param == "bodies" else request.getfixturevalue("onnx_library")


def check_what_ran(name: str, ran: Sequence[str], library: Path | None) -> None:
    if library is None:
        assert name not in ran
    else:
        assert set(ran) <= {name, "Cast"}
        assert ran.count(name) == 1


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("sizes", PICTURE_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_self_gradient_block(dtype: torch.dtype, sizes: Sizes, rms: bool, library: Path | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = {
        "image": torch.rand(sizes).to(dtype),
        "gradient": normal(*sizes, scale=0.1).to(dtype),
        "weights": reference.block_weights(SelfGradientBlock(channels=sizes[1], layers=4)),
    }
    function = onnx_functions.self_gradient_block(4, rms)
    model = model_of("SelfGradientBlock", inputs, {"result": dtype}, function, scale=0.7, rms=int(rms))
    (found,), ran = run(model, inputs, library, tmp_path)
    check_what_ran("SelfGradientBlock", ran, library)
    assert_close(found.to(dtype), reference.self_gradient_block(**inputs, scale=0.7, rms=rms))


def test_unfit_tensors_are_refused(onnx_library: Path, tmp_path: Path) -> None:
    inputs = {"image": torch.rand(1, 5, 2, 2), "gradient": torch.rand(1, 5, 2, 2), "weights": torch.rand(2, 5, 5)}
    function = onnx_functions.self_gradient_block(2, True)
    model = model_of("SelfGradientBlock", inputs, {"result": torch.float32}, function, scale=1.0, rms=1)
    with pytest.raises(Exception, match="image must have 1 to 4 channels"):
        run(model, inputs, onnx_library, tmp_path)


def test_a_model_holds_one_body_a_name() -> None:
    model = ModelProto()
    onnx_functions.add_function(model, onnx_functions.self_gradient_block(5, True))
    onnx_functions.add_function(model, onnx_functions.self_gradient_block(5, True))
    assert len(model.functions) == 1
    assert [item.domain for item in model.opset_import] == ["ai.sgn"]
    with pytest.raises(ValueError, match=r"another function ai\.sgn\.SelfGradientBlock"):
        onnx_functions.add_function(model, onnx_functions.self_gradient_block(5, False))
