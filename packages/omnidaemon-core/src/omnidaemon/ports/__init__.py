"""The ports that adapters implement, and what their signatures need.

Public for authors of adapters; see ``docs/`` for how to write one and ``omnidaemon-testing`` for the
contract that proves it.
"""
