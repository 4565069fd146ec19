"""Make what is released: the bundled model, its figures and its adversarial examples."""

from sgn_serve.common.interrupts import end_quietly

end_quietly()
