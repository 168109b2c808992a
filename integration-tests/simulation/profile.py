"""What a history is like: drawn from its seed, before anything happens."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["KINDS", "THEMES", "AgentPlan", "Event", "Profile", "draw"]

KINDS = ("idle", "connection", "position", "ack_wait", "fused")

# Probability of each fault at each port call, and what else may happen, by theme.
CALM: dict[str, float] = {}
MORE = {"drain", "clear", "purge", "skip", "register"}
LOSSY = {"lost_request": 0.01, "lost_reply": 0.02, "half": 0.02, "slow": 0.01, "twice": 0.01}
THEMES: dict[str, tuple[dict[str, float], frozenset[str]]] = {
    "calm": (CALM, frozenset({"drain"})),
    "commands": (CALM, frozenset({"pause", "cancel", "replay", "history", "delete", "answer"} | MORE)),
    "kill": ({"kill": 0.006}, frozenset({"kill"})),
    "stop": ({"stop": 0.006}, frozenset({"stop"})),
    "lossy": (LOSSY, frozenset({"drop"})),
    "zombie": ({"zombie": 0.02, "twice": 0.02}, frozenset({"drop"})),
    "outage": (CALM, frozenset({"outage"})),
    "cut": ({"lost_reply": 0.005}, frozenset({"cut", "drop"})),
    "clock": (CALM, frozenset({"step"})),
    "bomb": (CALM, frozenset({"kill"})),
    "forget": (LOSSY, frozenset({"drop", "kill"})),
    "chaos": (
        {**LOSSY, "zombie": 0.01, "kill": 0.002, "stop": 0.003},
        frozenset(
            {"kill", "stop", "outage", "cut", "drop", "step", "pause", "cancel", "replay", "history", "delete"}
            | {"answer"}
            | MORE
        ),
    ),
}
_WEIGHTS = {"commands": 3, "kill": 2, "stop": 2, "lossy": 2, "chaos": 8}

_PLANS = (
    ("ok", 8),
    ("slow", 3),
    ("fail1", 3),
    ("fail2", 1),
    ("doomed", 2),
    ("hopeless", 1),
    ("later", 2),
    ("ask", 2),
    ("ask_timeout", 1),
    ("steps", 2),
    ("follow", 3),
    ("follow_later", 1),
    ("reply", 1),
    ("endless", 1),
    ("unstorable", 1),
    ("progress", 1),
    ("garbage", 1),
    ("expired", 1),
)


@dataclass(slots=True)
class AgentPlan:
    """An agent: its topic, and how it takes its events."""

    topic: str
    name: str
    concurrency: int
    lease: float
    attempts: int
    initial: float
    timeout: float | None


@dataclass(slots=True)
class Event:
    """An event that will be published: what the agents will do with it, and how it travels."""

    at: float
    topic: str
    id: str
    plan: str
    key: str | None = None
    session: str | None = None
    again: float | None = None
    delay: float | None = None
    ttl: float | None = None


@dataclass(slots=True)
class Profile:
    """A history, before it is run."""

    seed: int
    kind: str
    theme: str
    span: float
    rates: dict[str, float]
    may: frozenset[str]
    agents: list[AgentPlan] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    actions: list[tuple[float, str]] = field(default_factory=list)
    workers: int = 2
    latency: float = 0.005
    adopt_after: float = 1.0
    bus_lease: float = 2.0
    window: float = 86_400.0

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"seed {self.seed}: {self.kind}, {self.theme}, {self.workers} workers, {len(self.agents)} agents,"
            f" {len(self.events)} events, {len(self.actions)} actions"
        )


def draw(seed: int, kind: str | None = None, theme: str | None = None) -> Profile:
    """Return the history of a seed, of a kind of bus and a theme if they are given."""
    rng = random.Random(seed)
    drawn_kind, drawn_theme = (
        rng.choice(KINDS),
        rng.choices(list(THEMES), [_WEIGHTS.get(name, 1) for name in THEMES])[0],
    )
    kind, theme = kind or drawn_kind, theme or drawn_theme
    rates, may = THEMES[theme]
    span = rng.uniform(1.0, 5.0)
    profile = Profile(seed, kind, theme, span, rates, may)
    profile.workers = rng.randint(2, 4) if theme in ("kill", "stop") else rng.randint(1, 4)
    profile.latency = rng.choice((0.0, 0.002, 0.01, 0.05))
    profile.adopt_after = rng.choice((0.5, 1.0, 3.0))
    _agents(rng, profile)
    profile.bus_lease = max(agent.lease for agent in profile.agents)
    if theme == "forget":
        profile.window = 3.0
    _events(rng, profile)
    if theme == "bomb":
        for event in rng.sample(profile.events, 1):
            event.plan, event.ttl = "bomb", None
    if may:
        names = sorted(may)
        count = rng.randint(1, 4) if theme != "chaos" else rng.randint(2, 8)
        profile.actions = sorted((rng.uniform(0.1, span), rng.choice(names)) for _ in range(count))
    return profile


def _agents(rng: random.Random, profile: Profile) -> None:
    places = [("t1", "a1"), ("t2", "a2"), ("t1", "a3")][: rng.randint(1, 3)]
    for topic, name in places:
        profile.agents.append(
            AgentPlan(
                topic,
                name,
                concurrency=rng.choice((1, 1, 2, 4)),
                lease=rng.choice((1.0, 1.5, 3.0)),
                attempts=rng.choice((2, 3, 4)),
                initial=rng.choice((0.1, 0.3)),
                timeout=rng.choice((None, None, 1.2)),
            )
        )


def _events(rng: random.Random, profile: Profile) -> None:
    count = rng.choice((4, 5, 6, 8, 10, 12, 15, 20)) if rng.random() < 0.95 else 40
    keys = rng.choice(((), (), ("k",), ("k", "l")))
    short = profile.theme == "kill"
    plans = [(name, weight) for name, weight in _PLANS if not short or name not in ("slow", "endless")]
    if rng.random() < 0.3:
        plans = rng.sample(plans, 4)
    names, weights = [name for name, _ in plans], [weight for _, weight in plans]
    burst = rng.random() < 0.4
    for number in range(count):
        event = Event(
            at=rng.uniform(0.0, 0.3 if burst else profile.span * 0.8),
            topic="t1" if rng.random() < 0.8 else "t2",
            id=f"e{number}",
            plan=rng.choices(names, weights)[0],
        )
        if event.plan != "garbage":
            if keys and rng.random() < 0.6:
                if rng.random() < 0.8:
                    event.key = rng.choice(keys)
                else:
                    event.session = rng.choice(keys)
            if event.plan == "expired":
                event.ttl = rng.uniform(0.0, 1.0)
            elif rng.random() < 0.1:
                event.delay = rng.uniform(0.05, 2.0)
        if rng.random() < 0.1 and profile.theme != "forget":
            event.again = event.at + rng.uniform(0.0, profile.span)
        profile.events.append(event)
    profile.events.sort(key=lambda event: event.at)
