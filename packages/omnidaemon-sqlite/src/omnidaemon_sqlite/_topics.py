"""Topics seen from outside the groups: history, trimming, description, deletion."""

from __future__ import annotations

from omnidaemon.model.run import Group, Start
from omnidaemon.ports.event_bus import Figure, GroupInfo, TopicInfo
from omnidaemon_sqlite._places import base, before, first_since, place, upto
from omnidaemon_sqlite._session import Session

__all__ = ["TopicTables"]

# Events that one transaction removes, so that a large topic holds nobody up.
CHUNK = 2000


class TopicTables:
    """Topics of one namespace in one open transaction."""

    def __init__(self, session: Session, space: int) -> None:
        self._session = session
        self._execute = session.connection.execute
        self._space = space

    def _find(self, name: str) -> tuple[int, int] | None:
        """Return a topic's number and its last position."""
        row: tuple[int, int] | None = self._execute(
            "SELECT id, last FROM topics WHERE space = ? AND name = ?", (self._space, name)
        ).fetchone()
        return row

    def bounds(self, name: str, start: Start, end: Start) -> tuple[int, int, int]:
        """Return the topic's number, the cursor and the last position of a reading of its history."""
        number, last = self._find(name) or (0, 0)
        return number, before(self._session, number, last, start), upto(self._session, number, last, end)

    def page(self, number: int, cursor: int, last: int, limit: int) -> list[tuple[int, bytes]]:
        """Return position and body of retained events behind ``cursor`` up to ``last``."""
        rows = self._execute(
            "SELECT ref, body FROM events WHERE ref > ? AND ref <= ? ORDER BY ref LIMIT ?",
            (base(number) + cursor, base(number) + last, limit),
        ).fetchall()
        return [(place(ref), body) for ref, body in rows]

    def trim(self, name: str, time: float) -> int:
        """Remove at most ``CHUNK`` events published before that time and finished by every group."""
        number, last = self._find(name) or (0, 0)
        (cursor,) = self._execute("SELECT min(cursor) FROM groups WHERE topic = ?", (number,)).fetchone()
        old = first_since(self._session, number, last, time) - 1
        return self._remove(
            number,
            "SELECT ref FROM events WHERE ref > ? AND ref <= ? AND ref NOT IN"
            " (SELECT p.ref FROM groups g CROSS JOIN pending p ON p.grp = g.id WHERE g.topic = ?) LIMIT ?",
            (base(number), base(number) + min(old, last if cursor is None else cursor), number, CHUNK),
        )

    def _remove(self, number: int, query: str, values: tuple[int, ...]) -> int:
        removed, size = self._execute(
            f"SELECT count(*), coalesce(sum(length(body)), 0) FROM events WHERE ref IN ({query})",  # noqa: S608 - ours
            values,
        ).fetchone()
        if removed:
            self._execute(f"DELETE FROM events WHERE ref IN ({query})", values)  # noqa: S608 - ours
            self._execute(
                "UPDATE topics SET length = length - ?, bytes = bytes - ? WHERE id = ?", (removed, size, number)
            )
        return int(removed)

    def info(self, name: str) -> TopicInfo:
        """Describe a topic."""
        row = self._execute(
            "SELECT id, last, length, bytes FROM topics WHERE space = ? AND name = ?", (self._space, name)
        ).fetchone()
        if row is None:
            return TopicInfo(name, length=Figure(0))
        number, last, length, size = row
        first, newest = (
            self._execute(
                f"SELECT ref FROM events WHERE ref > ? AND ref < ? ORDER BY ref {order} LIMIT 1",  # noqa: S608 - ours
                (base(number), base(number + 1)),
            ).fetchone()
            for order in ("ASC", "DESC")
        )
        return TopicInfo(
            name,
            length=Figure(length),
            bytes=Figure(size),
            first="" if first is None else str(place(first[0])),
            last="" if newest is None else str(place(newest[0])),
            groups=[
                self._group_info(name, last, number, *group)
                for group in self._execute(
                    "SELECT id, agent, epoch, cursor FROM groups WHERE topic = ? ORDER BY agent, epoch", (number,)
                ).fetchall()
            ],
        )

    def _group_info(
        self, name: str, last: int, topic: int, number: int, agent: str, epoch: int, cursor: int
    ) -> GroupInfo:
        (pending,) = self._execute("SELECT count(*) FROM pending WHERE grp = ?", (number,)).fetchone()
        oldest = self._execute(
            "SELECT published FROM events WHERE ref >= coalesce((SELECT min(ref) FROM pending WHERE grp = ?), ?)"
            " AND ref < ? ORDER BY ref LIMIT 1",
            (number, base(topic) + cursor + 1, base(topic + 1)),
        ).fetchone()
        readers = self._execute("SELECT DISTINCT reader FROM pending WHERE grp = ? ORDER BY reader", (number,))
        return GroupInfo(
            Group(name, agent, epoch),
            lag=Figure(last - cursor),
            pending=Figure(pending),
            oldest=None if oldest is None else oldest[0],
            position=str(cursor),
            readers=[row[0] for row in readers],
        )

    def names(self) -> list[str]:
        """Return the names of all topics, sorted."""
        rows = self._execute("SELECT name FROM topics WHERE space = ? ORDER BY name", (self._space,))
        return [row[0] for row in rows]

    def delete_group(self, group: Group) -> None:
        """Delete a group; what is in readers' hands is theirs no longer."""
        number, _ = self._find(group.topic) or (0, 0)
        row = self._execute(
            "DELETE FROM groups WHERE topic = ? AND agent = ? AND epoch = ? RETURNING id",
            (number, group.agent, group.epoch),
        ).fetchone()
        if row is not None:
            self._execute("DELETE FROM pending WHERE grp = ?", row)

    def delete_topic(self, name: str) -> tuple[int, bool]:
        """Delete the groups and at most ``CHUNK`` events, in the end the topic itself.

        Returns:
            How many events went, and whether the topic has.
        """
        number, _ = self._find(name) or (0, 0)
        self._execute("DELETE FROM pending WHERE grp IN (SELECT id FROM groups WHERE topic = ?)", (number,))
        self._execute("DELETE FROM groups WHERE topic = ?", (number,))
        removed = self._remove(
            number,
            "SELECT ref FROM events WHERE ref > ? AND ref < ? ORDER BY ref LIMIT ?",
            (base(number), base(number + 1), CHUNK),
        )
        if removed < CHUNK:
            self._execute("DELETE FROM topics WHERE id = ?", (number,))
        return removed, removed < CHUNK
