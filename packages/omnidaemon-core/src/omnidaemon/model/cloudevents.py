"""An event as CloudEvents 1.0 in JSON format, and back (design §4).

Correlation, causation, expiry, partition key and trace travel under the names that CloudEvents has
registered for them; the topic is the ``type``. What is ours alone begins with ``omni``. What no
attribute may hold (nested values, empty or unprintable text) is kept in ``omniextra``, as JSON text,
so that nothing is lost on the way.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote, unquote

from pydantic import ValidationError

from omnidaemon.model.envelope import EventEnvelope, derived_id
from omnidaemon.model.errors import DecodeError

__all__ = ["from_cloudevent", "to_cloudevent"]

_TEXTS = {
    "correlation_id": "correlationid",
    "causation_id": "causationid",
    "key": "partitionkey",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
    "tenant_id": "omnitenantid",
    "session_id": "omnisessionid",
    "idempotency_key": "omniidempotencykey",
    "schema_version": "omnischemaversion",
}
_TIMES = {"created_at": "time", "expires_at": "expirytime", "deliver_at": "omnideliverat"}
_NUMBERS = {"hops": "omnihops", "delivery_attempts": "omniattempts"}
_PAYLOAD = {"reply_to": "omnireplyto", "webhook": "omniwebhook"}
_EXTRA = "omniextra"
_TYPE = "datacontenttype"
_JSON = "application/json"
_CORE = {"specversion", "id", "source", "type", _TYPE, "data", "data_base64", _EXTRA}
_OURS = _CORE | {*_TEXTS.values(), *_TIMES.values(), *_NUMBERS.values(), *_PAYLOAD.values()}
# Foreign extensions that are called like fields of ours get this before their name.
_FOREIGN = "ce_"
_NAME = re.compile(r"[a-z0-9]{1,20}\Z")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_REFERENCE = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+\Z")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z")
_NOBODY = "urn:omnidaemon"
_QUOTED = "urn:omnidaemon:source:"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_INT = 2**31
_LONGEST_TIME = 64


def to_cloudevent(event: EventEnvelope) -> dict[str, Any]:
    """Return the event as a CloudEvent, ready for ``json.dumps``."""
    rest: dict[str, Any] = {}
    made: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": _source(event.source),
        "type": event.topic,
        _TYPE: _JSON,
        "data": event.payload.content,
    }
    for name, field, instead in (("id", "id", derived_id("cloudevent", event.id)), ("type", "topic", "omnidaemon")):
        if not _is_text(made[name]):
            rest[field], made[name] = made[name], instead
    values = {**event.__dict__, **{name: getattr(event.payload, name) for name in _PAYLOAD}}
    for field, name in (_TEXTS | _PAYLOAD | _NUMBERS).items():
        _put(made, rest, name, field, values[field])
    for field, name in _TIMES.items():
        text = None if values[field] is None else _time(values[field])
        _put(made, rest, name, field, values[field] if text is None else text, fits=text is not None)
    if event.headers is not None:
        rest["headers"] = event.headers
    for field, value in (event.__pydantic_extra__ or {}).items():
        name = field.removeprefix(_FOREIGN) if field.removeprefix(_FOREIGN) in EventEnvelope.model_fields else field
        _put(made, rest, name, field, value, fits=None if _is_extension(name, field, value) else False)
    if event.payload.__pydantic_extra__:
        rest["payload"] = event.payload.__pydantic_extra__
    if rest:
        made[_EXTRA] = json.dumps(rest).replace("\x7f", "\\u007f")
    return made


def from_cloudevent(event: Any) -> EventEnvelope:
    """Return the envelope of a CloudEvent 1.0 in JSON format.

    Raises:
        DecodeError: It is none, or holds what an envelope cannot.
    """
    if not isinstance(event, dict) or not str(event.get("specversion", "")).startswith("1."):
        raise DecodeError("not a CloudEvent: specversion is not 1.0")
    missing = [name for name in ("id", "source", "type") if not isinstance(event.get(name), str) or not event[name]]
    if missing:
        raise DecodeError(f"not a CloudEvent: {', '.join(missing)} must be a text that is not empty")
    fields = {"id": event["id"], "topic": event["type"], "source": _source_back(event["source"]), **_fields(event)}
    payload: dict[str, Any] = {field: event[name] for field, name in _PAYLOAD.items() if event.get(name) is not None}
    payload["content"] = _data(event)
    rest = _rest(event.get(_EXTRA))
    payload |= {name: rest.pop(name) for name in _PAYLOAD if name in rest}
    payload |= rest.pop("payload", {})
    try:
        return EventEnvelope.model_validate({**fields, **rest, "payload": payload})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "fields"
        raise DecodeError(f"the CloudEvent {event['id']!r:.80} is no event of ours: {where}: {first['msg']}") from None


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    """Return the envelope's fields, and what is foreign as unknown fields, which are kept."""
    times = {name: field for field, name in _TIMES.items()}
    known = {name: field for field, name in (_TEXTS | _NUMBERS).items()}
    fields: dict[str, Any] = {}
    for name, value in event.items():
        if value is None or name in _PAYLOAD.values():
            continue
        if name in times:
            fields[times[name]] = _time_back(name, value)
        elif name in known:
            fields[known[name]] = value
        elif name not in _CORE or (name == _TYPE and value != _JSON):
            fields[f"{_FOREIGN}{name}" if name in EventEnvelope.model_fields else name] = value
    return fields


def _put(
    made: dict[str, Any], rest: dict[str, Any], name: str, field: str, value: Any, *, fits: bool | None = None
) -> None:
    """Write an attribute, or keep the value aside if an attribute cannot hold it."""
    if value is None and fits is None:
        return
    if fits is None:
        fits = isinstance(value, bool) or _is_text(value) or (isinstance(value, int) and -_MAX_INT <= value < _MAX_INT)
    if fits:
        made[name] = value
    else:
        rest[field] = value


def _is_extension(name: str, field: str, value: Any) -> bool:
    """Return whether an unknown field may go out as an attribute, and would come back as that field."""
    if name == _TYPE:
        return _is_text(value) and value != _JSON
    taken = name in _OURS or (name == field and name in EventEnvelope.model_fields)
    return value is not None and not taken and _NAME.match(name) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not _UNPRINTABLE.search(value)


def _source(source: str | None) -> str:
    """Return a URI reference: the source itself where it is one."""
    if source is None:
        return _NOBODY
    if _REFERENCE.match(source) and not source.startswith(_NOBODY):
        return source
    return _QUOTED + quote(source, safe="", errors="surrogatepass")


def _source_back(source: str) -> str | None:
    if source == _NOBODY:
        return None
    return unquote(source[len(_QUOTED) :], errors="surrogatepass") if source.startswith(_QUOTED) else source


def _time(seconds: float) -> str | None:
    """Return an RFC 3339 time that reads back as the same number, None if there is none."""
    try:
        exact = Decimal(repr(seconds))
        whole = int(exact.to_integral_value(rounding="ROUND_FLOOR"))
        text = (_EPOCH + timedelta(seconds=whole)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
        fraction = f"{exact - whole:f}".partition(".")[2]
    except (ArithmeticError, ValueError):
        return None
    text += f"{'.' if fraction else ''}{fraction}Z"
    # Compared as text: -0.0 equals 0.0, and is another number.
    return text if len(text) <= _LONGEST_TIME and repr(_time_back("time", text)) == repr(seconds) else None


def _time_back(name: str, text: Any) -> float:
    match = _TIME.match(text) if isinstance(text, str) else None
    try:
        if match is None:
            raise ValueError
        day, clock, fraction, zone = match.groups()
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
        whole = (moment - _EPOCH) // timedelta(seconds=1)
        return float(Decimal(whole) + Decimal(f"0{fraction or ''}"))
    except (ValueError, OverflowError):
        raise DecodeError(f"the CloudEvent's {name} {text!r:.80} is no RFC 3339 time") from None


def _data(event: dict[str, Any]) -> Any:
    if "data_base64" not in event:
        return event.get("data")
    try:
        return json.loads(base64.b64decode(event["data_base64"], validate=True))
    except (ValueError, TypeError, binascii.Error):
        raise DecodeError("the CloudEvent's data_base64 is not JSON; content must be JSON") from None


def _rest(text: Any) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        rest: Any = json.loads(text)
    except (ValueError, TypeError):
        rest = None
    if not isinstance(rest, dict) or not isinstance(rest.get("payload", {}), dict):
        raise DecodeError(f"the CloudEvent's {_EXTRA} is no JSON object")
    return rest
