"""Serve a graph with FastAPI and ONNX Runtime, written by hand: one request, one run.

It imports nothing of this repository, so that it stays what a user of FastAPI would write.

python -m benchmarks.service.servers.fastapi_server GRAPH PORT THREADS
"""

import json
import sys
from io import BytesIO
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import uvicorn
from fastapi import FastAPI, File, Form
from PIL import Image

app = FastAPI()


@app.post("/classify")
def classify(image: Annotated[bytes, File()], self_gradient: Annotated[bool, Form()] = True) -> dict[str, object]:
    """Classify a picture, in FastAPI's thread pool, because the function is not async."""
    picture = Image.open(BytesIO(image)).convert("RGB").resize(app.state.size, Image.Resampling.BILINEAR)
    pixels = (np.asarray(picture, np.float32) / 255).transpose(2, 0, 1)[None]
    output = "logits" if self_gradient else "plain_logits"
    (logits,) = app.state.session.run([output], {"image": pixels})
    powers = np.exp(logits[0] - logits[0].max())
    best = int(powers.argmax())
    return {"label": app.state.classes[best], "index": best, "probability": float(powers[best] / powers.sum())}


@app.get("/readyz")
def ready() -> dict[str, bool]:
    """Answer that the server is ready."""
    return {"ready": True}


def main() -> None:
    """Load the graph and serve until the process is ended."""
    graph, port, threads = sys.argv[1:]
    (text,) = (item.value for item in onnx.load(graph).metadata_props if item.key == "self_gradient_network")
    described = json.loads(text)
    app.state.classes, app.state.size = described["class_names"], tuple(reversed(described["image_size"]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    app.state.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    uvicorn.run(app, port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
