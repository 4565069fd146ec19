"""Small helpers without knowledge of networks or attacks: files, devices, signals, provenance."""
