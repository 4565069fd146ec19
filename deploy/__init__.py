"""Ship the service: the Bento, its image, Kubernetes, nginx, dashboards."""
