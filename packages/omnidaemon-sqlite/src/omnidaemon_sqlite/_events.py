"""The bus's part of a transaction: topics, events, groups and what they have not finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnidaemon.model.errors import BusFull, NotAttempted, PayloadTooLarge
from omnidaemon.model.run import Delivery, Group, Outgoing, Receipt, Start
from omnidaemon_sqlite._places import base, before, place
from omnidaemon_sqlite._session import Session

__all__ = ["EventTables", "Tag", "Taken"]


@dataclass(frozen=True, slots=True)
class Tag:
    """How a delivery finds its row; numbers of groups and events are never used again."""

    path: str
    group: int
    ref: int


@dataclass(slots=True)
class Taken:
    """What was read, and when the next redelivery to these groups is due."""

    deliveries: list[Delivery]
    next_at: float | None = None


@dataclass(slots=True)
class _Topic:
    id: int
    last: int
    length: int
    bytes: int
    upto: int
    published: float


class EventTables:
    """Events of one namespace in one open transaction, at one time.

    Args:
        session: The transaction.
        space: Number of the namespace.
        namespace: Its name.
        now: The bus's clock.
    """

    def __init__(self, session: Session, space: int, namespace: str, now: float) -> None:
        self._session = session
        self._execute = session.connection.execute
        self._executemany = session.connection.executemany
        self._space = space
        self._namespace = namespace
        self._now = now

    def _topic(self, name: str) -> _Topic | None:
        row = self._execute(
            "SELECT id, last, length, bytes, upto, published FROM topics WHERE space = ? AND name = ?",
            (self._space, name),
        ).fetchone()
        return None if row is None else _Topic(*row)

    def make(self, name: str) -> _Topic:
        """Return a topic, and make it if it is not there."""
        topic = self._topic(name)
        if topic is None:
            self._execute("INSERT INTO topics (space, name) VALUES (?, ?)", (self._space, name))
            topic = self._topic(name)
            assert topic is not None  # noqa: S101 - just inserted
        return topic

    def ensure(self, name: str, groups: Mapping[Group, Start]) -> None:
        """Make a topic and its groups; existing groups keep their position."""
        topic = self.make(name)
        for group, start in groups.items():
            cursor = before(self._session, topic.id, topic.last, start)
            self._execute(
                "INSERT INTO groups (topic, agent, epoch, cursor) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (topic.id, group.agent, group.epoch, cursor),
            )
        self._wake(name)

    def publish(self, batch: Sequence[Outgoing], max_event: int, max_topic: int | None) -> list[Receipt | Exception]:
        """Append events; an outcome for each. After a failure its key's later events are not attempted."""
        topics = {name: self.make(name) for name in dict.fromkeys(event.topic for event in batch)}
        room = {name: None if max_topic is None else max_topic - self._unfinished(topics[name]) for name in topics}
        failed: set[tuple[str, str]] = set()
        outcomes: list[Receipt | Exception] = []
        rows: list[tuple[int, float, int, str, str | None, bytes]] = []
        for event in batch:
            topic, left = topics[event.topic], room[event.topic]
            refused = _refuse(event, max_event, max_topic, left, failed)
            if refused is not None:
                if event.key is not None:
                    failed.add((event.topic, event.key))
                outcomes.append(refused)
                continue
            size = len(event.body)
            topic.last += 1
            topic.length += 1
            topic.bytes += size
            topic.upto += size
            topic.published = max(topic.published, self._now)
            if left is not None:
                room[event.topic] = left - size
            ref = base(topic.id) + topic.last
            rows.append((ref, topic.published, topic.upto, event.id, event.key, event.body))
            outcomes.append(Receipt(str(topic.last)))
        self._executemany("INSERT INTO events (ref, published, upto, id, key, body) VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._executemany(
            "UPDATE topics SET last = ?, length = ?, bytes = ?, upto = ?, published = ? WHERE id = ?",
            [(row.last, row.length, row.bytes, row.upto, row.published, row.id) for row in topics.values()],
        )
        for name in topics:
            self._wake(name)
        return outcomes

    def _unfinished(self, topic: _Topic) -> int:
        """Return the bytes from the oldest event on that some group, or nobody yet, has finished."""
        (oldest,) = self._execute(
            "SELECT min(coalesce((SELECT ref FROM pending WHERE grp = groups.id ORDER BY ref LIMIT 1), ? + cursor + 1))"
            " FROM groups WHERE topic = ?",
            (base(topic.id), topic.id),
        ).fetchone()
        if oldest is None:
            return topic.bytes
        row = self._execute(
            "SELECT upto - length(body) FROM events WHERE ref >= ? AND ref < ? ORDER BY ref LIMIT 1",
            (oldest, base(topic.id + 1)),
        ).fetchone()
        return 0 if row is None else topic.upto - int(row[0])

    def look(self, want: Mapping[Group, int]) -> Taken | None:
        """Return an empty result if there is nothing to take, else None; writes nothing."""
        times: list[float] = []
        for group, limit in want.items():
            found = self._group(group)
            if found is None or limit <= 0:
                continue
            number, topic, cursor, last = found
            if (
                cursor < last
                and self._execute(
                    "SELECT 1 FROM events WHERE ref > ? AND ref <= ? LIMIT 1",
                    (base(topic) + cursor, base(topic) + last),
                ).fetchone()
            ):
                return None
            times += self._next_time(number)
        next_at = min(times, default=None)
        return Taken([], next_at) if next_at is None or next_at > self._now else None

    def take(self, want: Mapping[Group, int], reader: str, lease: float) -> Taken:
        """Hand over what there is, redeliveries first, each in the order of publishing."""
        deliveries: list[Delivery] = []
        times: list[float] = []
        for group, limit in want.items():
            found = self._group(group)
            if found is None or limit <= 0:
                continue
            number, topic, cursor, last = found
            rows = self._execute(
                "SELECT e.ref, e.id, e.key, e.body FROM pending p INDEXED BY pending_until CROSS JOIN events e"
                " ON e.ref = p.ref WHERE p.grp = ? AND p.until <= ? ORDER BY p.ref LIMIT ?",
                (number, self._now, limit),
            ).fetchall()
            if len(rows) < limit and cursor < last:
                fresh = self._execute(
                    "SELECT ref, id, key, body FROM events WHERE ref > ? AND ref <= ? ORDER BY ref LIMIT ?",
                    (base(topic) + cursor, base(topic) + last, limit - len(rows)),
                ).fetchall()
                cursor = place(fresh[-1][0]) if fresh else last
                self._execute("UPDATE groups SET cursor = ? WHERE id = ?", (cursor, number))
                rows += fresh
            until = self._now + lease
            self._executemany(
                "INSERT INTO pending (grp, ref, until, reader, key) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET until = excluded.until, reader = excluded.reader",
                [(number, ref, until, reader, key) for ref, _, key, _ in rows],
            )
            deliveries += [self._delivery(group, number, *row) for row in rows]
            times += self._next_time(number)
        return Taken(deliveries, min(times, default=None))

    def _group(self, group: Group) -> tuple[int, int, int, int] | None:
        """Return a group's number, its topic's, its cursor and the topic's last position."""
        row: tuple[int, int, int, int] | None = self._execute(
            "SELECT g.id, t.id, g.cursor, t.last FROM topics t JOIN groups g ON g.topic = t.id"
            " WHERE t.space = ? AND t.name = ? AND g.agent = ? AND g.epoch = ?",
            (self._space, *group),
        ).fetchone()
        return row

    def _next_time(self, number: int) -> list[float]:
        row = self._execute("SELECT until FROM pending WHERE grp = ? ORDER BY until LIMIT 1", (number,)).fetchone()
        return [] if row is None else [row[0]]

    def _delivery(self, group: Group, number: int, ref: int, event_id: str, key: str | None, body: bytes) -> Delivery:
        after = None
        if key is not None:
            row = self._execute(
                "SELECT e.id FROM pending p CROSS JOIN events e ON e.ref = p.ref"
                " WHERE p.grp = ? AND p.key = ? AND p.ref < ? AND e.id != ? ORDER BY p.ref DESC LIMIT 1",
                (number, key, ref, event_id),
            ).fetchone()
            after = None if row is None else row[0]
        return Delivery(
            group, event_id, body, str(place(ref)), key, after=after, tag=Tag(self._session.path, number, ref)
        )

    def held(self, group: Group, event_ids: Sequence[str], reader: str) -> list[Delivery]:
        """Return again what the reader was handed and has not finished."""
        found = self._group(group)
        if found is None:
            return []
        rows = self._execute(
            "SELECT e.ref, e.id, e.key, e.body FROM pending p CROSS JOIN events e ON e.ref = p.ref"
            " WHERE p.grp = ? AND p.reader = ? ORDER BY p.ref",
            (found[0], reader),
        ).fetchall()
        wanted = set(event_ids)
        return [self._delivery(group, found[0], *row) for row in rows if row[1] in wanted]

    def ack(self, batch: Sequence[Delivery]) -> None:
        """Finish deliveries for their group, whoever holds them now: the claim decided that already."""
        tags = self._tags(batch)
        self._executemany("DELETE FROM pending WHERE grp = ? AND ref = ?", [(tag.group, tag.ref) for tag in tags])

    def extend(self, batch: Sequence[Delivery], reader: str, until: float) -> list[bool | None]:
        """Put off the redelivery of what this reader still holds."""
        answers: list[bool | None] = []
        for delivery in batch:
            tags = self._tags([delivery])
            changed = [
                self._execute(
                    "UPDATE pending SET until = ? WHERE grp = ? AND ref = ? AND reader = ?",
                    (until, tag.group, tag.ref, reader),
                ).rowcount
                for tag in tags
            ]
            answers.append(changed == [1])
        return answers

    def give_back(self, batch: Sequence[Delivery], reader: str) -> None:
        """Make what this reader still holds available now."""
        self.extend(batch, reader, self._now)
        for delivery in batch:
            self._wake(delivery.group.topic)

    def _tags(self, batch: Sequence[Delivery]) -> list[Tag]:
        tags = (delivery.tag for delivery in batch)
        return [tag for tag in tags if isinstance(tag, Tag) and tag.path == self._session.path]

    def _wake(self, name: str) -> None:
        self._session.woken.add((self._namespace, name))


def _refuse(
    event: Outgoing, max_event: int, max_topic: int | None, left: int | None, failed: set[tuple[str, str]]
) -> Exception | None:
    """Return why an event cannot be stored; None if it can."""
    if event.key is not None and (event.topic, event.key) in failed:
        return NotAttempted(f"event {event.id}: an earlier event of key {event.key!r} failed, publish both again")
    if len(event.body) > max_event:
        return PayloadTooLarge(f"event {event.id} has {len(event.body)} bytes, the bus takes {max_event}")
    if left is not None and len(event.body) > left:
        return BusFull(
            f"topic {event.topic} holds {max_topic} bytes that some group has not finished (topic_max_bytes):"
            " start workers for its agents, or delete the agents that no longer run"
        )
    return None
