"""How the service is shipped: the Bento, its image, Kubernetes, nginx, dashboards."""
