"""The omnidaemon command: run workers, publish events, inspect and replay.

``main`` is the entry; ``omnidaemon run`` goes from it straight to ``launch``, past everything that only
the other commands need, so that a worker starts quickly and stays small.
"""
