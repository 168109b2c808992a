"""OmniDaemon's contract suite for event buses, stores and runners, and a test runtime for agents."""
