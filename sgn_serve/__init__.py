"""An HTTP service that classifies pictures with an exported self-gradient network, on ONNX Runtime."""

from sgn_serve.interrupts import end_quietly

end_quietly()
