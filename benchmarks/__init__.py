"""Measure what the documents claim: a module for each claim, which writes results/*.json."""

from sgn_serve.common.interrupts import end_quietly

end_quietly()
