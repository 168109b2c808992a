"""The application services that drive the ports: private, see ADR 0001 for why they live here."""
