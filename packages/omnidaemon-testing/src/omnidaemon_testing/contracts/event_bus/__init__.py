"""``EventBusContract``: what every event bus keeps."""

from omnidaemon_testing.contracts.event_bus.deliver import DeliverRules
from omnidaemon_testing.contracts.event_bus.history import HistoryRules
from omnidaemon_testing.contracts.event_bus.life import LifeRules
from omnidaemon_testing.contracts.event_bus.publish import PublishRules

__all__ = ["EventBusContract"]


class EventBusContract(PublishRules, DeliverRules, HistoryRules, LifeRules):
    """The rules of an event bus, one test each.

    Inherit it and override one fixture; ``lease`` is the idle time after which the bus delivers
    again, and must be the one of ``timing``::

        class TestAcmeEventBus(EventBusContract):
            @pytest.fixture
            def make_bus(self, unique_prefix):
                def factory(namespace=unique_prefix, topic_max_bytes=None):
                    return AcmeEventBus(URL, namespace=namespace, lease=self.timing.lease,
                                        topic_max_bytes=topic_max_bytes)
                return factory

    The factory returns unopened buses. Those of one namespace share their topics. A rule that the
    adapter's capabilities rule out is skipped, or its refusal is tested.
    """
