"""What users call; the public names are exported by :mod:`omnidaemon`."""
