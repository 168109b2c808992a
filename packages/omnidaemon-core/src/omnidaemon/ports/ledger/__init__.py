"""The Store contract as plain code over a few tables.

A store that has transactions and an ordinary language inside them (memory, SQLite, JSON files)
implements :class:`Tables` and gets claims, inbox, lanes, settlement and decisions from
:class:`Ledger`. A store that must decide on the server (Redis, Postgres, MongoDB) says the same in
the server's language, and the contract suite compares.
"""

from omnidaemon.ports.ledger.ledger import Ledger
from omnidaemon.ports.ledger.tables import KvRow, OutboxRow, RunRow, Tables

__all__ = ["KvRow", "Ledger", "OutboxRow", "RunRow", "Tables"]
