"""The times of a contract run: short on purpose, and stretched for slow servers."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["ContractTiming"]


@dataclass(frozen=True, kw_only=True)
class ContractTiming:
    """How long things take in a contract run, in seconds.

    Attributes:
        lease: The lease of claims, and the idle time that ``make_bus`` must give its buses.
        quiet: For how long nothing may come before the suite believes that nothing comes.
        slack: How late something may be that is due at a certain time.
        deadline: How long a condition may take that has no time of its own.
        poll: How often a condition is looked at.
        test: After which a test is given up.
    """

    lease: float = 0.6
    quiet: float = 0.15
    slack: float = 1.0
    deadline: float = 10.0
    poll: float = 0.01
    test: float = 60.0

    def scaled(self, factor: float) -> ContractTiming:
        """Return these times, ``factor`` times as long."""
        return replace(
            self,
            lease=self.lease * factor,
            quiet=self.quiet * factor,
            slack=self.slack * factor,
            deadline=self.deadline * factor,
            poll=self.poll * factor,
            test=self.test * factor,
        )
