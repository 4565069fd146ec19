"""Training and judging self-gradient networks and their baselines."""

from sgn_serve.common.interrupts import end_quietly

end_quietly()
