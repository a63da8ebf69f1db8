"""Encoding and validation of payloads, commands and replies."""

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagastream import InvalidMessage
from sagastream._codec.entries import decode_command, decode_reply
from sagastream._codec.payload import MAX_DEPTH, MAX_PAYLOAD_BYTES, decode_payload, encode_payload

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)


def _command(**changes: bytes) -> dict[bytes, bytes]:
    fields = {b"event_type": b"echo:say", b"payload": b"{}", b"request_id": b"r", b"v": b"1"}
    return fields | {name.encode(): value for name, value in changes.items()}


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@given(st.dictionaries(_TEXT, _VALUES, max_size=5))
def test_decoding_restores_an_encoded_payload(payload: dict[str, Any]) -> None:
    """A payload passes through an entry unchanged."""
    assert decode_payload(encode_payload(payload)) == payload


def test_equal_payloads_have_equal_text() -> None:
    """The order of keys does not make another request."""
    assert encode_payload({"a": 1, "b": 2}) == encode_payload({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"a": {"b": math.nan}}, "payload.a.b"),
        ({"a": [1, math.inf]}, "payload.a[1]"),
        ({"a": object()}, "payload.a"),
        ({"a": {1: 2}}, "payload.a"),
        ({"a": "\ud800"}, "payload.a"),
        ({"\ud800": 1}, "payload"),
        ({"a": 10**20_000}, "payload.a"),
        ({"a": b"bytes"}, "payload.a"),
        (_nested(MAX_DEPTH + 1), "payload" + ".a" * (MAX_DEPTH + 1)),
        ({"a": "x" * MAX_PAYLOAD_BYTES}, "payload"),
        ([1], "payload"),
    ],
)
def test_an_invalid_payload_is_not_encoded(payload: Any, field: str) -> None:
    """The error names the invalid field."""
    with pytest.raises(InvalidMessage) as caught:
        encode_payload(payload)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ('{"a": NaN}', "payload", "NaN"),
        ('{"a": -Infinity}', "payload", "Infinity"),
        ('{"a": {"b": 1, "b": 2}}', "payload.b", "twice"),
        ("{", "payload", "not JSON"),
        ("[1]", "payload", "object"),
        ("[" * 100_000, "payload", "limit"),
        ("[" * 20_000, "payload", "deeper"),
        ('{"a": ' * 40 + "1" + "}" * 40, "payload" + ".a" * (MAX_DEPTH + 1), "deeper"),
        ('{"a": %s}' % ("9" * 50_000), "payload", "not JSON"),
        ('{"a": "\\ud800"}', "payload.a", "surrogate"),
    ],
)
def test_malformed_payload_text_is_not_decoded(text: str, field: str, reason: str) -> None:
    """The error is always InvalidMessage, with the field and the reason."""
    with pytest.raises(InvalidMessage, match=reason) as caught:
        decode_payload(text)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (_command(v=b"2"), "v"),
        (_command(surprise=b"1"), "surprise"),
        (_command(event_type=b""), "event_type"),
        (_command(event_type=b"a b"), "event_type"),
        (_command(request_id=b"\xff"), "request_id"),
        (_command(request_id=b"x" * 300), "request_id"),
        (_command(deadline=b"soon"), "deadline"),
        (_command(deadline=b"-1"), "deadline"),
        (_command(timestamp=b"1.5"), "timestamp"),
        (_command(saga_id=b"a\nb"), "saga_id"),
        (_command(reply_stream=b"{x}"), "reply_stream"),
        (_command(payload=b"[]"), "payload"),
        ({b"payload": b"{}"}, "event_type"),
        ({b"event_type": b"a:b"}, "payload"),
        ({b"\xff": b""}, repr(b"\xff")),
    ],
)
def test_a_malformed_command_is_refused_with_its_field(raw: dict[bytes, bytes], field: str) -> None:
    """Each field is checked."""
    with pytest.raises(InvalidMessage) as caught:
        decode_command(raw, stream="echo:commands", entry_id="1-1")
    assert caught.value.field == field


def test_a_command_without_request_id_gets_one_from_its_entry_id() -> None:
    """An entry added with XADD is one request, also when it is delivered twice."""
    raw = {b"event_type": b"echo:say", b"payload": b"{}"}
    first = decode_command(raw, stream="echo:commands", entry_id="1-1")
    again = decode_command(raw, stream="echo:commands", entry_id="1-1")
    other = decode_command(raw, stream="echo:commands", entry_id="1-2")
    assert first.request_id == again.request_id != other.request_id
    assert first.correlation_id == first.request_id


def test_a_malformed_trace_context_is_dropped() -> None:
    """It does not fail the command."""
    raw = _command(traceparent=b"zz", parent_span_id=b"nothing")
    command = decode_command(raw, stream="s", entry_id="1-1")
    assert command.parent_span_id == ""


@given(st.dictionaries(st.binary(max_size=12), st.binary(max_size=40), max_size=6))
def test_no_entry_crashes_the_decoder(raw: dict[bytes, bytes]) -> None:
    """A random entry is a command or raises InvalidMessage."""
    with contextlib.suppress(InvalidMessage):
        assert decode_command(raw, stream="s", entry_id="1-1").event_type


def test_a_reply_keeps_every_field() -> None:
    """A reply has all fields of the entry, with the payload decoded."""
    raw = {b"request_id": b"r", b"status": b"start", b"payload": b'{"a":1}', b"epoch": b"2"}
    expected = {"request_id": "r", "status": "start", "payload": {"a": 1}, "epoch": "2"}
    assert decode_reply(raw) == expected


@pytest.mark.parametrize("missing", ["request_id", "status"])
def test_a_reply_without_request_id_or_status_is_refused(missing: str) -> None:
    """The error names the missing field."""
    raw = {b"request_id": b"r", b"status": b"start"}
    del raw[missing.encode()]
    with pytest.raises(InvalidMessage) as caught:
        decode_reply(raw)
    assert caught.value.field == missing


def test_an_unknown_stage_is_refused() -> None:
    """The error lists the five stages of the protocol."""
    with pytest.raises(InvalidMessage, match="one of cancelled, completed"):
        decode_reply({b"request_id": b"r", b"status": b"done"})


def test_encoding_is_compact_and_keeps_unicode() -> None:
    """Text is not escaped, so that people can read a stream."""
    assert encode_payload({"ort": "Küche"}) == '{"ort":"Küche"}'
    assert json.loads(encode_payload({"a": 1.5})) == {"a": 1.5}
