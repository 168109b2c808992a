"""Where 0.1 had its supervisor: importing it says what replaces it (``api.md`` §9)."""

raise ImportError(
    "omnidaemon.agent_runner is gone: declare the agent with @sdk.agent and start `omnidaemon run MODULE:SDK`, which"
    " restarts dead worker processes"
)
