"""The pytest plugin of omnidaemon-testing."""
