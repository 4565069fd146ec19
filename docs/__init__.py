"""The documentation: pages in Markdown, and the generator that fills in what follows from code and results."""

from sgn_serve.common.interrupts import end_quietly

end_quietly()
