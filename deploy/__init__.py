"""Ship the service: the Bento, its image, Kubernetes, nginx, dashboards."""

from sgn_serve.common.interrupts import end_quietly

end_quietly()
