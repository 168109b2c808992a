"""``python -m services up redis``: start servers by hand, print what to export, stay until Ctrl-C."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading

from services import NAMES, ServiceUnavailableError


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="services", description="Servers of the integration tests, by hand.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start servers, print the variables to export, stay in the foreground")
    up.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=f"one or more of: {', '.join(NAMES)}")
    commands.add_parser("list", help="say where each server would come from")
    arguments = parser.parse_args()
    if arguments.command == "list":
        for name in NAMES:
            print(f"{name}: {importlib.import_module(f'services.{name}').source().label}")
        return 0
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    for name in arguments.names:
        module = importlib.import_module(f"services.{name}")
        try:
            module.provision(private=True)
            url = module.start()
        except ServiceUnavailableError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"export OMNIDAEMON_TEST_{name.upper()}_URL={url}")
        print(f"export {name.upper()}_URL={url}", flush=True)
    print("# running; Ctrl-C stops", flush=True)
    ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
