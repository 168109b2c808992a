"""The domain: what an event, an agent, a run and a dead letter are. No I/O."""
