"""How a run says that it waits for a human."""

from __future__ import annotations

from typing import Any

__all__ = ["AskSignal"]


class AskSignal(BaseException):
    """Ends the attempt until a human has answered; no ``except Exception`` of the user's swallows it."""

    def __init__(self, key: str, question: str, schema: Any, timeout: float | None) -> None:
        self.key, self.question, self.schema, self.timeout = key, question, schema, timeout
        super().__init__(key)
