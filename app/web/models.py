"""Request and response bodies of the HTTP API; its OpenAPI description is made from them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.missions.mission import MAX_ROBOTS

Area = Annotated[str, Field(min_length=1, max_length=64, description="A map in MAP_DIR.")]
# Also valid as the name of a folder, because results are stored in one.
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]

EntryIdText = Annotated[str, Field(pattern=r"^\d{1,20}-\d{1,20}$", max_length=41)]


class StartMission(BaseModel):
    """A mission to start."""

    model_config = ConfigDict(extra="forbid", strict=True)

    area: Area
    robots: Annotated[int, Field(ge=1, le=MAX_ROBOTS)] = 2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    known_poses: Annotated[
        bool, Field(description="Whether robots know their poses, or localise themselves.")
    ] = True
    approve: Annotated[
        bool, Field(description="Whether a person must approve it before the maps are merged.")
    ] = False
    until: Annotated[
        str,
        Field(
            max_length=40,
            description="When enough is explored: everything, coverage:SHARE, frontier:METRES, "
            "time:SECONDS or battery:PERCENT.",
        ),
    ] = "everything"
    radio: Annotated[
        str,
        Field(
            max_length=40,
            description="Which robots hear one another: perfect, ir2 or distance:METRES.",
        ),
    ] = "perfect"


class CancelMission(BaseModel):
    """The reason for undoing a mission."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Annotated[str, Field(min_length=1, max_length=500)] = "cancelled by hand"


class RejectMission(BaseModel):
    """The reason for rejecting what a mission has explored."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Annotated[str, Field(min_length=1, max_length=500)] = "rejected by hand"


class ReleaseRobot(BaseModel):
    """The mission that holds a robot, and the reason for releasing it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mission: Key
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class ReleasedRobots(BaseModel):
    """The robots that were released; none if the mission no longer held the robot."""

    released: list[str]


class ServerTime(BaseModel):
    """The time of the machine that serves the pages."""

    now: Annotated[float, Field(description="Seconds since the Unix epoch.")]
    pages_here: Annotated[
        int,
        Field(
            description="How many pages of missions that machine shows itself, and so shares its"
            " processors with; 1 for a client on another machine."
        ),
    ]


class Login(BaseModel):
    """The token, which a browser sends once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: Annotated[str, Field(max_length=4096)]


class StartedMission(BaseModel):
    """The mission that was started, by this request or an earlier one."""

    saga_id: str


class MissionSummary(BaseModel):
    """A mission's parameters and status; ages in seconds, times in seconds since the Unix epoch.

    If this release cannot read its journal, only the id and the status `unreadable` are known.
    """

    saga_id: str
    status: str
    area: str | None
    robots: int | None
    seed: int | None
    known_poses: bool | None
    at: str
    started: float | None
    age_s: float | None
    trace_id: str
    known: Annotated[
        float | None,
        Field(description="Known share of the area's cells; the coverage once it has completed."),
    ] = None
    driven_m: Annotated[
        float | None, Field(description="Metres driven by all robots together.")
    ] = None


class MissionRow(MissionSummary):
    """A mission in the list, with how far it is or how it ended."""

    known_m2: Annotated[float | None, Field(description="Known area, square metres.")] = None
    remaining_s: Annotated[
        float | None,
        Field(description="Simulated seconds that are left of its exploration, about."),
    ] = None
    outcome: Annotated[
        str | None, Field(description="Its status; of a compensated one `cancelled` or `failed`.")
    ] = None
    duration_s: Annotated[float | None, Field(description="Until its end, or until now.")] = None
    coverage: Annotated[float | None, Field(description="Of a completed one, 0 to 1.")] = None
    waits_for: Annotated[
        str | None, Field(description="The limit, or the pause, that its current step waits for.")
    ] = None
    error_line: Annotated[str | None, Field(description="Why it did not complete.")] = None


class StepRequest(BaseModel):
    """One request of a mission, forward or undo."""

    step: str
    direction: str
    attempt: int
    status: str
    request_id: str
    duration_s: float | None
    error: dict[str, Any]


class MissionDetail(MissionSummary):
    """A mission with all its requests and the steps that have not started."""

    error: dict[str, Any]
    entries: list[StepRequest]
    remaining: list[str]


class Problem(BaseModel):
    """An error in the format of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    trace_id: str
