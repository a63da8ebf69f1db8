"""The folders of results: a mission writes and removes its own, and no other."""

import json
from pathlib import Path

import numpy as np
import pytest

from app.config import Settings, choose_settings
from app.exploration.grid import GridFrame
from app.missions import artifacts
from app.missions.mission import run_saga
from sagastream import Bus, InvalidMessage

_FRAME = GridFrame(4, 4, 0.05)


def _write(folder: Path) -> None:
    grid = np.zeros((4, 4), dtype=np.int8)
    artifacts.write(folder, grid, _FRAME, paths=[], frontiers=[], title="t", report={"n": 1})


def test_results_are_written_replaced_and_discarded(tmp_path: Path) -> None:
    """A second time replaces them; discarding twice is no error, and removes a draft, too."""
    folder = artifacts.folder_of(tmp_path, "m")
    for _ in range(2):
        _write(folder)
        assert json.loads((folder / "report.json").read_text()) == {"n": 1}
    (tmp_path / ".m.draft").mkdir()
    for _ in range(2):
        artifacts.discard(folder)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["traces", "maps"])
def test_a_folder_without_results_is_neither_written_nor_removed(tmp_path: Path, name: str) -> None:
    """Such as that of the traces, whose name may be chosen as the id of a mission."""
    folder = artifacts.folder_of(tmp_path, name)
    folder.mkdir()
    (folder / "kept.json").write_text("{}")
    with pytest.raises(InvalidMessage, match=f"{name} is no folder of results"):
        _write(folder)
    artifacts.discard(folder)
    assert (folder / "kept.json").exists()


async def test_a_mission_with_the_name_of_another_folder_is_not_started(
    app_bus: Bus, tmp_path: Path
) -> None:
    """The error comes before anything is done."""
    (tmp_path / "traces").mkdir()
    choose_settings(out_dir=tmp_path)
    with pytest.raises(InvalidMessage, match="choose another id"):
        await run_saga(1, "office", saga_id="traces")
    assert not await app_bus.command("EXISTS", app_bus.key("saga:traces"))


def test_results_and_traces_have_their_own_folders() -> None:
    """By default neither is in the other, so that no id meets a name of ours."""
    settings = Settings()
    assert settings.out_dir not in settings.trace_dir.parents
    assert settings.trace_dir not in settings.out_dir.parents
    assert settings.out_dir != settings.trace_dir
