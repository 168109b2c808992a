"""What OmniDaemon costs and how fast it is, side by side with what else one could use.

``python -m benchmarks`` with this folder's parent on the path, or ``hatch run bench:run``. Every round runs every
contestant once, in an order that turns with the rounds, each as a process of its own on an empty Redis; ratios are
taken within a round. Targets and their names are in `benchmarks.figures`.
"""
