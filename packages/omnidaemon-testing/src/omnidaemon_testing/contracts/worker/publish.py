"""Rules P1 to P5: from a publisher to an agent's result."""

from __future__ import annotations

from typing import Any

from omnidaemon import Context
from omnidaemon_testing.contracts.worker.base import WorkerBase

__all__ = ["PublishRules"]


class PublishRules(WorkerBase):
    """What a publisher can rely on."""

    async def test_p1_an_event_is_run_and_its_result_kept(self) -> None:
        """What is published is run by its agent, and what that returns is its result.

        Trouble-shooting: start here; compare bus and store alone with their own contracts first.
        """
        sdk = await self.worker()
        handle = await sdk.publish(self.topic, {"large": 1e22, "text": "Grüße"})
        assert await handle.result(timeout=self.timing.deadline) == {"large": 1e22, "text": "Grüße"}
        task = await sdk.get_task(handle.id)
        assert task is not None
        assert (task["state"], task["attempt"], task["agent"]) == ("completed", 1, "agent")

    async def test_p2_an_agent_gets_what_was_published_before_it(self) -> None:
        """Events published before an agent exists are kept for it.

        Trouble-shooting: a new group begins at the beginning.
        """
        sdk = self.sdk()
        async with sdk:
            if not sdk.event_bus.capabilities.late_groups:
                self.absent(sdk.event_bus, "late_groups")
            handles = await self.publish(sdk, 5)
            self.serve(sdk)
            await sdk.start()
            await self.all_done(sdk, handles)

    async def test_p3_every_agent_gets_every_event(self) -> None:
        """Two agents on one topic each run every event, with outcomes of their own.

        Trouble-shooting: records are kept by (topic, agent, event).
        """
        sdk = self.sdk()

        async def other(message: dict[str, Any], ctx: Context) -> str:
            return f"{ctx.agent}:{message['content']}"

        self.serve(sdk, name="first")
        self.serve(sdk, other, name="second")
        await sdk.start()
        for handle in await self.publish(sdk, 5):
            outcomes = await handle.results(timeout=self.timing.deadline)
            assert {name: outcome.value for name, outcome in outcomes.items()} == {
                "first": outcomes["first"].value,
                "second": f"second:{outcomes['first'].value}",
            }

    async def test_p4_the_same_id_runs_once_for_each_agent(self) -> None:
        """An id published again, soon or after its end, is not run again; a key makes the id.

        Trouble-shooting: the redelivery must meet the claim, or the done mark.
        """
        sdk = await self.worker()
        first = await sdk.publish(self.topic, "first", idempotency_key="order 7")
        second = await sdk.publish(self.topic, "second", idempotency_key="order 7")
        assert first.id == second.id
        assert await first.result(timeout=self.timing.deadline) == "first"
        third = await sdk.publish(self.topic, "third", idempotency_key="order 7")
        marker = await sdk.publish(self.topic, "marker")
        await marker.result(timeout=self.timing.deadline)
        await self.sleep(self.timing.quiet)
        assert await third.result(timeout=self.timing.deadline) == "first"
        assert self.starts(first.id) == 1

    async def test_p5_a_delayed_event_runs_when_it_is_due(self) -> None:
        """A delayed event is run at its time: never early, at most a second late, others not held up.

        Trouble-shooting: the store holds it, and any worker relays it.
        """
        sdk = await self.worker()
        await sdk.connections.get()
        offset = await sdk.store.now() - self.time()
        due = self.time() + offset + self.timing.lease
        later = await sdk.publish(self.topic, "later", deliver_at=due)
        soon = await sdk.publish(self.topic, "soon")
        await soon.result(timeout=self.timing.deadline)
        await later.result(timeout=self.timing.deadline)
        begun = {run.event_id: run.begin + offset for run in self.runs}
        early = due - begun[later.id]
        assert early <= 0.02, f"run {early:.3f} s early"
        assert -early <= 1.0 + self.timing.slack, f"run {-early:.2f} s late"
        assert begun[soon.id] < begun[later.id]
