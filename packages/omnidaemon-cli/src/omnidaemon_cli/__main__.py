"""``python -m omnidaemon_cli`` is the ``omnidaemon`` command."""

from omnidaemon_cli.main import main

if __name__ == "__main__":
    main()
