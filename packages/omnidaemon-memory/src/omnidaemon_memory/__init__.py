"""OmniDaemon event bus and store in process memory: the reference model of the contract."""
