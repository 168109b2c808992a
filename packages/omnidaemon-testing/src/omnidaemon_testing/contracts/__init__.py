"""The contract classes. Inherit one, override its fixture, and pytest runs the rules of the design."""
