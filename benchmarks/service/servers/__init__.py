"""Servers of other frameworks that the service is compared with."""
