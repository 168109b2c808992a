"""Any exception can be kept, and no record grows without bounds (design D7, P6)."""

import json
import logging

import pytest

from omnidaemon import (
    Context,
    RetryPolicy,
    TaskFailed,
)


async def failure(event, timeout=2):
    with pytest.raises(TaskFailed) as caught:
        await event.result(timeout=timeout)
    return caught.value


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Odd(Exception):
    __str__ = staticmethod(lambda: 5)  # type: ignore[assignment]


ERRORS = {
    "NUL": ValueError("a\x00b"),
    "surrogates": ValueError("a\ud800b\udfff"),
    "control characters": ValueError("".join(map(chr, range(1, 32))) * 500),
    "emoji": ValueError("\U0001f600" * 5_000),
    "huge": ValueError("x" * 5_000_000),
    "many lines": ValueError("x\n" * 100_000),
    "no text": Unprintable(),
    "a text that is none": Odd(),
    "an unprintable note": None,
    "a chain": None,
    "a group": ExceptionGroup("many", [ValueError("x" * 1000) for _ in range(100)]),
    "a long name": type("N" * 3000, (Exception,), {})("x"),
    "a name with a quote": type('N"\n', (Exception,), {})("x"),
}


ERRORS["an unprintable note"] = ValueError("noted")


ERRORS["an unprintable note"].__notes__ = [Unprintable()]  # type: ignore[list-item]


ERRORS["a chain"] = ValueError("end")


ERRORS["a chain"].__cause__ = Unprintable()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", ERRORS)
def test_any_exception_can_be_kept(sdk, serve, run, what, capfd, monkeypatch):
    # The log holds the exception as it is, and xdist could not send pytest's report of this one.
    monkeypatch.setattr(logging.getLogger("omnidaemon.worker"), "disabled", what == "surrogates")

    @sdk.agent("t", retry=RetryPolicy(max_attempts=2, initial=0.001))
    async def work():
        raise ERRORS[what]

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            error = await failure(event)
            assert (error.reason, error.attempts) == ("max_attempts", 2)
            record = await event.task().info()
            for entry in record["history"]:
                assert len(json.dumps(entry, ensure_ascii=False).encode()) <= 4200
                assert entry["traceback"]
            json.dumps(record).encode()

    run(main())
    assert capfd.readouterr().err == ""


def test_a_step_with_a_thousand_names_is_cut_in_the_history(sdk, serve, run):
    @sdk.agent("t")
    async def work(ctx: Context):
        for number in range(300):
            await ctx.step(f"step number {number}", int)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            await event.result(timeout=3)
            (entry,) = (await event.task().info())["history"]
            assert len(json.dumps(entry).encode()) <= 4200
            assert "step number 0" in entry["steps"]
            assert "..." in entry["steps"]

    run(main())
