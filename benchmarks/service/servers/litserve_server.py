"""Serve a graph with LitServe, its batching and ONNX Runtime. Pictures come as base64 in JSON, as in its own examples.

It imports nothing of this repository, so that it stays what a user of LitServe would write.

python -m benchmarks.service.servers.litserve_server GRAPH PORT THREADS
"""

import base64
import json
import sys
from io import BytesIO
from typing import Any

import litserve
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

MAX_BATCH = 32
BATCH_TIMEOUT_SECONDS = 0.004


class Api(litserve.LitAPI):
    """Classify pictures in batches.

    Args:
        graph: The exported graph's path.
        threads: CPU threads of one run.
    """

    def __init__(self, graph: str, threads: int):
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_SECONDS, api_path="/classify")
        self.graph = graph
        self.threads = threads

    def setup(self, device: str) -> None:
        """Load the graph into a worker. LitServe calls it once a worker."""
        (text,) = (item.value for item in onnx.load(self.graph).metadata_props if item.key == "self_gradient_network")
        described = json.loads(text)
        self.classes, self.size = described["class_names"], tuple(reversed(described["image_size"]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        self.session = onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, Any]) -> NDArray[np.float32]:
        """Return a request's picture, (3, H, W) in [0, 1]."""
        picture = Image.open(BytesIO(base64.b64decode(request["image"]))).convert("RGB")
        picture = picture.resize(self.size, Image.Resampling.BILINEAR)
        return (np.asarray(picture, np.float32) / np.float32(255)).transpose(2, 0, 1)

    def batch(self, inputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the pictures as one array."""
        return np.stack(inputs)

    def predict(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the logits of each picture."""
        (logits,) = self.session.run(["logits"], {"image": images})
        return list(logits)

    def unbatch(self, output: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the answers of a batch one by one."""
        return output

    def encode_response(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """Return the likeliest class and its probability."""
        powers = np.exp(logits - logits.max())
        best = int(powers.argmax())
        return {"label": self.classes[best], "index": best, "probability": float(powers[best] / powers.sum())}


if __name__ == "__main__":
    served, port, thread_count = sys.argv[1:]
    server = litserve.LitServer(Api(served, int(thread_count)), accelerator="cpu", healthcheck_path="/readyz")
    server.run(port=int(port), generate_client_file=False, log_level="warning")
