"""Messages of VDA 5050, against the official schemas both ways."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.robots.vda5050 import v3, v3_factsheet
from app.robots.vda5050.dialects import DIALECTS, MAX_BYTES, BadMessage, dialect_of
from tests.vda5050 import schema, values, wrong

TOPICS = ("order", "instantActions", "state", "connection", "factsheet")
_HEADER: dict[str, Any] = {
    "header_id": 7,
    "timestamp": "2026-11-26T10:00:00.123Z",
    "version": "3.0.0",
    "manufacturer": "acme",
    "serial_number": "agv-1",
}
_ACTION = v3.Action(
    action_type="scan",
    action_id="drive-1",
    blocking_type="SINGLE",
    action_parameters=(v3.Parameter(key="until", value=20.5),),
)
MESSAGES: tuple[v3.Header, ...] = (
    v3.Order(
        **_HEADER,
        order_id="explore",
        order_update_id=65537,
        nodes=tuple(
            v3.Node(
                node_id=f"n{number}",
                sequence_id=2 * number,
                released=number < 2,
                node_position=v3.NodePosition(
                    x=0.1 + number, y=-2.0, theta=1.5, allowed_deviation_xy=0.25, map_id="office"
                ),
                actions=(_ACTION,) if number == 1 else (),
            )
            for number in range(3)
        ),
        edges=tuple(
            v3.Edge(
                edge_id=f"e{number}",
                sequence_id=2 * number + 1,
                released=number < 1,
                maximum_speed=0.5,
                actions=(),
            )
            for number in range(2)
        ),
    ),
    v3.InstantActions(
        **_HEADER,
        actions=(v3.Action(action_type="cancelOrder", action_id="c-1", blocking_type="NONE"),),
    ),
    v3.State(
        **_HEADER,
        order_id="explore",
        order_update_id=65537,
        last_node_id="n0",
        last_node_sequence_id=0,
        node_states=(v3.NodeState(node_id="n1", sequence_id=2, released=True),),
        edge_states=(v3.EdgeState(edge_id="e0", sequence_id=1, released=True),),
        position=v3.Position(x=1.0, y=2.0, theta=-3.1, map_id="office", localized=True),
        driving=True,
        paused=False,
        new_base_request=False,
        action_states=(v3.ActionState(action_id="drive-1", action_status="WAITING"),),
        instant_action_states=(
            v3.ActionState(action_id="c-1", action_status="FINISHED", action_result="3"),
        ),
        power_supply=v3.PowerSupply(state_of_charge=81.5, charging=False),
        operating_mode="TEACH_IN",
        errors=(
            v3.Error(
                error_type="OUTDATED_ORDER_UPDATE",
                error_level="CRITICAL",
                error_references=(
                    v3.Reference(reference_key="orderId", reference_value="explore"),
                ),
            ),
        ),
        safety_state=v3.SafetyState(active_emergency_stop="NONE", field_violation=False),
    ),
    v3.Connection(**_HEADER, connection_state="CONNECTION_BROKEN"),
    v3_factsheet.Factsheet(
        **_HEADER,
        type_specification=v3_factsheet.TypeSpecification(series_name="simulated"),
        physical_parameters=v3_factsheet.PhysicalParameters(
            minimum_speed=0.0,
            maximum_speed=0.5,
            maximum_acceleration=1.0,
            maximum_deceleration=1.0,
            maximum_height=0.3,
            width=0.4,
            length=0.4,
        ),
        protocol_limits=v3_factsheet.ProtocolLimits(
            maximum_string_lengths=v3_factsheet.StringLengths(maximum_id_length=128),
            maximum_array_lengths=v3_factsheet.ArrayLengths(order_nodes=1000),
            timing=v3_factsheet.Timing(minimum_order_interval=0.0, minimum_state_interval=0.0),
        ),
        protocol_features=v3_factsheet.ProtocolFeatures(
            actions=(
                v3_factsheet.SupportedAction(
                    action_type="initializePosition", action_scopes=("INSTANT",)
                ),
                v3_factsheet.SupportedAction(
                    action_type="scan",
                    action_scopes=("NODE",),
                    action_parameters=(
                        v3_factsheet.ActionParameter(key="until", value_data_type="NUMBER"),
                    ),
                ),
            )
        ),
    ),
)


@pytest.mark.parametrize("message", MESSAGES, ids=TOPICS)
@pytest.mark.parametrize("version", DIALECTS)
def test_a_message_that_we_write_satisfies_the_official_schema(
    version: str, message: v3.Header
) -> None:
    """And it is read back as it was, but for what the version has no word for."""
    dialect = DIALECTS[version]
    payload = dialect.encode(message)
    assert wrong(version, message.topic, payload) == []
    assert dialect_of(message.topic, payload) is dialect
    again = dialect.decode(message.topic, payload)
    assert dialect.encode(again) == payload
    if version == "3.0":
        assert again == message


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("version", DIALECTS)
def test_a_message_that_satisfies_the_official_schema_is_read(version: str, topic: str) -> None:
    """Whatever a robot of others leaves out or adds; and what we make of it satisfies it, too."""

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(values(version, topic), st.booleans())
    def check(message: dict[str, Any], more: bool) -> None:
        if more:
            message = message | {"vendorField": [1]}
        read = DIALECTS[version].decode(topic, json.dumps(message).encode())
        assert read.topic == topic
        assert wrong(version, topic, DIALECTS[version].encode(read)) == []

    check()


def test_the_versions_have_their_own_words() -> None:
    """One value of the code, and what is on the wire."""
    state, connection = MESSAGES[2], MESSAGES[3]
    old, new = (json.loads(DIALECTS[each].encode(state)) for each in ("2.1", "3.0"))
    assert (old["operatingMode"], new["operatingMode"]) == ("TEACHIN", "TEACH_IN")
    assert [each["actionId"] for each in old["actionStates"]] == ["drive-1", "c-1"]
    assert [each["actionId"] for each in new["instantActionStates"]] == ["c-1"]
    assert old["errors"][0]["errorType"] == "orderUpdateError"
    assert (old["errors"][0]["errorLevel"], new["errors"][0]["errorLevel"]) == (
        "WARNING",
        "CRITICAL",
    )
    assert old["batteryState"]["batteryCharge"] == new["powerSupply"]["stateOfCharge"] == 81.5
    assert b'"CONNECTIONBROKEN"' in DIALECTS["2.0"].encode(connection)
    assert b'"CONNECTION_BROKEN"' in DIALECTS["3.0"].encode(connection)
    order = json.loads(DIALECTS["2.1"].encode(MESSAGES[0]))
    assert (order["edges"][1]["startNodeId"], order["edges"][1]["endNodeId"]) == ("n1", "n2")
    assert order["nodes"][1]["actions"][0]["blockingType"] == "HARD"
    assert order["nodes"][1]["nodePosition"]["allowedDeviationXY"] == 0.25
    sheet = DIALECTS["2.1"].encode(MESSAGES[4])
    assert json.loads(sheet)["protocolFeatures"]["agvActions"][0]["actionType"] == "initPosition"
    read = DIALECTS["2.1"].decode("factsheet", sheet)
    assert isinstance(read, v3_factsheet.Factsheet)
    assert read.action("initializePosition")
    both = json.loads(DIALECTS["2.0"].encode(MESSAGES[1]))
    action = both["actions"][0]
    assert action["actionName"] == action["actionType"] == "cancelOrder"
    assert both["instantActions"][0]["actionId"] == action["actionId"]
    del both["actions"]
    read = DIALECTS["2.0"].decode("instantActions", json.dumps(both).encode())
    assert isinstance(read, v3.InstantActions)
    assert [each.action_type for each in read.actions] == ["cancelOrder"]


@pytest.mark.parametrize("version", DIALECTS)
def test_values_that_versions_share_are_read_as_they_are(version: str) -> None:
    """Also those that stand for another value when this version is written."""
    dialect = DIALECTS[version]
    renamed = {"CONNECTIONBROKEN": "CONNECTION_BROKEN", "TEACHIN": "TEACH_IN", "AUTOACK": "MANUAL"}
    for message, path in (
        (MESSAGES[3], ("connectionState",)),
        (MESSAGES[2], ("operatingMode",)),
        (MESSAGES[2], ("safetyState", "activeEmergencyStop" if version == "3.0" else "eStop")),
    ):
        fields = json.loads(dialect.encode(message))
        part, known = fields, schema(version, message.topic)["properties"]
        for name in path[:-1]:
            part, known = part[name], _resolved(version, message.topic, known[name])["properties"]
        for value in known[path[-1]]["enum"]:
            part[path[-1]] = value
            read = dialect.decode(message.topic, json.dumps(fields).encode())
            found = str(read.model_dump(by_alias=False))
            assert f"'{renamed.get(value, value)}'" in found, (path, value)
            assert dialect.decode(message.topic, dialect.encode(read)) == read


def _resolved(version: str, topic: str, part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in part:
        found: dict[str, Any] = schema(version, topic)["definitions"][part["$ref"].split("/")[-1]]
        return found
    return part


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "headerId: Field required"),
        (b" " * (MAX_BYTES + 1), f"more than {MAX_BYTES}"),
        (b'{"headerId": 1e999}', "headerId"),
    ],
)
@pytest.mark.parametrize("version", ["3.0", "2.1"])
def test_a_malformed_message_is_refused_by_the_field_that_is_wrong(
    version: str, payload: bytes, complaint: str
) -> None:
    """In one line that names the topic."""
    with pytest.raises(BadMessage, match=complaint) as caught:
        DIALECTS[version].decode("connection", payload)
    assert str(caught.value).startswith("connection: ")
    assert "\n" not in str(caught.value)


def test_an_unknown_version_is_refused_by_name() -> None:
    """A robot of a later version is not driven by guesses."""
    with pytest.raises(BadMessage, match=r"'4\.0\.0' is not one of 3\.0, 2\.1, 2\.0"):
        dialect_of("state", b'{"version": "4.0.0"}')
    assert dialect_of("state", b'{"version": "2.1.3"}') is DIALECTS["2.1"]
    assert schema("3.0", "order")["title"]
