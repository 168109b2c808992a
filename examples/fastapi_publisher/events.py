"""What the web application and the worker have in common: the shape of an event and of its result."""

from pydantic import BaseModel, Field

TOPIC = "question.asked"
AGENT = "answerer"


class Question(BaseModel):
    """What is published."""

    text: str = Field(min_length=1, max_length=1000)


class Answer(BaseModel):
    """What the agent returns."""

    text: str
    process: int
