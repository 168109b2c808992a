"""``WorkerContract``: what bus, store and worker keep together."""

from omnidaemon_testing.contracts.worker.control import ControlRules
from omnidaemon_testing.contracts.worker.crashes import CrashRules
from omnidaemon_testing.contracts.worker.deliver import DeliverRules
from omnidaemon_testing.contracts.worker.failures import FailureRules
from omnidaemon_testing.contracts.worker.lanes import LaneRules
from omnidaemon_testing.contracts.worker.life import LifeRules
from omnidaemon_testing.contracts.worker.publish import PublishRules

__all__ = ["WorkerContract"]


class WorkerContract(PublishRules, DeliverRules, FailureRules, LaneRules, ControlRules, LifeRules, CrashRules):
    """The rules that need a bus, a store and the real worker together, one test each.

    Inherit it and override the fixtures ``make_bus`` and ``make_store``, as for
    ``EventBusContract`` and ``StoreContract``. Where the adapters reach further than one process,
    workers in processes of their own are killed and frozen too: the unopened adapters are pickled
    for them.
    """
