"""The program `sgn`: one name for the commands of the other packages."""

from sgn_serve.common.interrupts import end_quietly

end_quietly()
