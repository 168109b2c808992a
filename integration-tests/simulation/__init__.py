"""A seeded simulation of the real worker code: virtual time, memory backends, faults at every port call.

``python -m simulation --histories 1000`` runs it; a failing seed is printed with the line that replays it.
"""
