"""``StoreContract``: what every store keeps."""

from omnidaemon_testing.contracts.store.agents import AgentRules
from omnidaemon_testing.contracts.store.claims import ClaimRules
from omnidaemon_testing.contracts.store.decisions import DecisionRules
from omnidaemon_testing.contracts.store.lanes import LaneRules
from omnidaemon_testing.contracts.store.life import LifeRules
from omnidaemon_testing.contracts.store.marks import MarkRules
from omnidaemon_testing.contracts.store.outbox import OutboxRules
from omnidaemon_testing.contracts.store.outcomes import OutcomeRules
from omnidaemon_testing.contracts.store.records import RecordRules
from omnidaemon_testing.contracts.store.values import ValueRules

__all__ = ["StoreContract"]


class StoreContract(
    AgentRules,
    ClaimRules,
    OutcomeRules,
    LaneRules,
    DecisionRules,
    OutboxRules,
    MarkRules,
    RecordRules,
    ValueRules,
    LifeRules,
):
    """The rules of a store, one test each.

    Inherit it and override one fixture::

        class TestAcmeStore(StoreContract):
            @pytest.fixture
            def make_store(self, unique_prefix):
                return lambda namespace=unique_prefix: AcmeStore(URL, namespace=namespace)

    The factory returns unopened stores. Those of one namespace share their data.
    """
