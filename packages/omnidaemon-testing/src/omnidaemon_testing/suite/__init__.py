"""The contracts as ready-made tests: certify a backend without writing any code.

::

    pytest --pyargs omnidaemon_testing.suite --omnidaemon-event-bus=NAME --omnidaemon-store=NAME

The names are those of the entry point groups ``omnidaemon.event_buses`` and ``omnidaemon.stores``.
A backend is built by its ``from_settings`` with a namespace of its own for each test, and finds its
server in its documented variables, or in what follows the name: ``--omnidaemon-store=acme=URL``.
"""
