"""What the HTTP API takes and gives, as it stands in its OpenAPI description."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.orchestrator import MOST_ROBOTS

Area = Annotated[str, Field(min_length=1, max_length=64, description="A map in MAP_DIR.")]
# What may be a folder's name, too: results lie in one.
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class MissionAsked(BaseModel):
    """A mission to start."""

    model_config = ConfigDict(extra="forbid", strict=True)

    area: Area
    robots: Annotated[int, Field(ge=1, le=MOST_ROBOTS)] = 2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    known_poses: Annotated[
        bool, Field(description="Whether robots know where they are, or each finds out.")
    ] = True


class Reason(BaseModel):
    """Why a mission is undone."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Annotated[str, Field(min_length=1, max_length=500)] = "cancelled by hand"


class Release(BaseModel):
    """Why a robot is taken from the mission that holds it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mission: Key
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class Released(BaseModel):
    """The robots that were set free; none, if the mission did not hold it any more."""

    released: list[str]


class Token(BaseModel):
    """What a browser is asked for once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: Annotated[str, Field(max_length=4096)]


class Started(BaseModel):
    """A mission that was started, now or before."""

    saga_id: str


class Mission(BaseModel):
    """A mission in a line; ages and durations in seconds, times in seconds since the epoch."""

    saga_id: str
    status: str
    area: str | None
    robots: int | None
    seed: int | None
    known_poses: bool
    at: str
    started: float
    age_s: float
    trace_id: str
    known: Annotated[
        float | None, Field(description="Share of the area's cells; when done, the coverage.")
    ] = None
    driven_m: Annotated[float | None, Field(description="Metres, of all robots together.")] = None


class Entry(BaseModel):
    """One request of a mission."""

    step: str
    direction: str
    attempt: int
    status: str
    request_id: str
    duration_s: float | None
    error: dict[str, Any]


class MissionDetail(Mission):
    """A mission with all its requests, and the steps that it would still do."""

    error: dict[str, Any]
    entries: list[Entry]
    remaining: list[str]


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    trace_id: str
