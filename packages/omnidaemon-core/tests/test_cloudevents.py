"""CloudEvents 1.0 round trip (design §4)."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidaemon import DecodeError, EventEnvelope, PayloadBase
from omnidaemon.model.envelope import decode, encode

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.floats(allow_nan=False, allow_infinity=False) | st.floats(0, 4e9)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["colour", "subject", "type", "data", "datacontenttype", "omniextra", "time", "a_b", "Ä", "ce_key"]
)


@st.composite
def envelopes(draw: st.DrawFn) -> EventEnvelope:
    def maybe(strategy: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | strategy)

    payload = PayloadBase(
        content=draw(values),
        webhook=maybe(text),
        reply_to=maybe(text),
        **draw(st.dictionaries(st.sampled_from(["note", "x_y"]), values, max_size=2)),
    )
    return EventEnvelope(
        id=draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)),
        topic=draw(text),
        payload=payload,
        tenant_id=maybe(text),
        created_at=draw(times),
        correlation_id=maybe(text),
        causation_id=maybe(text),
        source=maybe(text | st.sampled_from(["https://a/b?c=%20#d", "urn:omnidaemon", "urn:omnidaemon:source:x", "%"])),
        delivery_attempts=draw(st.integers(1, 2**40)),
        idempotency_key=maybe(text),
        key=maybe(text),
        deliver_at=maybe(times),
        expires_at=maybe(times),
        session_id=maybe(text),
        headers=maybe(st.dictionaries(text, text, max_size=2)),
        traceparent=maybe(text),
        tracestate=maybe(text),
        hops=draw(st.integers(0, 40)),
        schema_version=draw(text),
        **draw(st.dictionaries(names, values, max_size=3)),
    )


@settings(max_examples=50, deadline=None)
@given(envelopes())
def test_an_event_comes_back_as_it_was(event):
    made = event.to_cloudevent()
    back = EventEnvelope.from_cloudevent(json.loads(json.dumps(made)))
    assert json.dumps(back.model_dump(), sort_keys=True) == json.dumps(event.model_dump(), sort_keys=True)
    assert repr(back.content) == repr(event.content)
    # What CloudEvents demands of attributes.
    for name, value in made.items():
        if name != "data":
            assert re.fullmatch(r"[a-z0-9]{1,20}", name)
            assert isinstance(value, (str, bool, int))
            assert not isinstance(value, str) or (value and not re.search("[\x00-\x1f\x7f-\x9f]", value))
            assert isinstance(value, str) or -(2**31) <= value < 2**31


def test_registered_names_are_used():
    event = EventEnvelope(
        id="e",
        topic="file.uploaded",
        payload=PayloadBase(content={"a": 1}, reply_to="replies"),
        source="https://example.com/uploads",
        created_at=1767225600.25,
        correlation_id="c",
        causation_id="w",
        key="k",
        expires_at=1767225601.0,
        deliver_at=1767225600.5,
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        tracestate="a=b",
        tenant_id="acme",
        session_id="s",
        subject="a.txt",
        sequence=5,
    )
    assert event.to_cloudevent() == {
        "specversion": "1.0",
        "id": "e",
        "source": "https://example.com/uploads",
        "type": "file.uploaded",
        "datacontenttype": "application/json",
        "data": {"a": 1},
        "time": "2026-01-01T00:00:00.25Z",
        "correlationid": "c",
        "causationid": "w",
        "partitionkey": "k",
        "expirytime": "2026-01-01T00:00:01.0Z",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "a=b",
        "subject": "a.txt",
        "sequence": 5,
        "omnitenantid": "acme",
        "omnisessionid": "s",
        "omnideliverat": "2026-01-01T00:00:00.5Z",
        "omnireplyto": "replies",
        "omnihops": 0,
        "omniattempts": 1,
        "omnischemaversion": "1.0",
    }


def test_a_foreign_event_is_understood_and_given_back():
    foreign = {
        "specversion": "1.0",
        "type": "com.github.pull_request.opened",
        "source": "https://github.com/cloudevents/spec/pull",
        "subject": "123",
        "id": "A234-1234-1234",
        "time": "2018-04-05T19:31:00+02:00",
        "comexampleextension1": "value",
        "comexampleothervalue": 5,
        "unsetextension": None,
        "datacontenttype": "text/xml",
        "key": "theirs",
        "partitionkey": "p",
        "data": "<much/>",
    }
    event = EventEnvelope.from_cloudevent(foreign)
    assert event.topic == "com.github.pull_request.opened"
    assert event.id == "A234-1234-1234"
    assert event.content == "<much/>"
    assert event.created_at == 1522949460.0
    assert event.key == "p"
    assert decode(encode(event)) == event
    back = event.to_cloudevent()
    for name in set(foreign) - {"time", "unsetextension"}:
        assert back[name] == foreign[name], name
    assert back["time"] == "2018-04-05T17:31:00.0Z"


@pytest.mark.parametrize("zone", ["Z", "z", "+00:00", "-00:00"])
def test_times_are_read_as_rfc_3339_writes_them(zone):
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "/",
        "type": "t",
        "time": f"1969-12-31t23:59:59.123456789{zone}",
    }
    assert EventEnvelope.from_cloudevent(event).created_at == -0.876543211


def test_binary_data_must_be_json():
    event = {"specversion": "1.0", "id": "1", "source": "/", "type": "t", "data_base64": "eyJhIjoxfQ=="}
    assert EventEnvelope.from_cloudevent(event).content == {"a": 1}
    assert EventEnvelope.from_cloudevent({"specversion": "1.0", "id": "1", "source": "/", "type": "t"}).content is None


GOOD = {"specversion": "1.0", "id": "1", "source": "/", "type": "t"}


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (None, "specversion is not 1.0"),
        ([], "specversion is not 1.0"),
        ({}, "specversion is not 1.0"),
        ({"specversion": "2.0"}, "specversion is not 1.0"),
        ({"specversion": "1.0", "id": "", "source": 5}, "id, source, type must be a text"),
        ({**GOOD, "time": "yesterday"}, "time 'yesterday' is no RFC 3339 time"),
        ({**GOOD, "expirytime": 5}, "expirytime 5 is no RFC 3339 time"),
        ({**GOOD, "time": "2026-13-01T00:00:00Z"}, "is no RFC 3339 time"),
        ({**GOOD, "data_base64": "%%%"}, "data_base64 is not JSON"),
        ({**GOOD, "data_base64": "AAAA"}, "data_base64 is not JSON"),
        ({**GOOD, "data_base64": 5}, "data_base64 is not JSON"),
        ({**GOOD, "data": {1, 2}}, "is no event of ours: payload.content"),
        ({**GOOD, "partitionkey": 5}, "is no event of ours: key"),
        ({**GOOD, "omnihops": -1}, "is no event of ours: hops"),
        ({**GOOD, "omniextra": "{"}, "omniextra is no JSON object"),
        ({**GOOD, "omniextra": 5}, "omniextra is no JSON object"),
        ({**GOOD, "omniextra": '{"payload": 5}'}, "omniextra is no JSON object"),
        ({**GOOD, "omniextra": '{"id": 5}'}, "is no event of ours: id"),
        ({**GOOD, 5: "a"}, "is no event of ours"),
        ({**GOOD, "id": "x" * 201}, "is no event of ours: id"),
    ],
)
def test_what_is_no_event_is_refused(event, says):
    with pytest.raises(DecodeError, match=says):
        EventEnvelope.from_cloudevent(event)
