"""Files are replaced atomically."""

from pathlib import Path

import pytest

from app.exploration.map_files import write_atomically


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    """After a write the folder holds the new content and no temporary file."""
    path = tmp_path / "map.pgm"
    path.write_bytes(b"old")

    write_atomically(path, b"new")

    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("map.pgm", b"new")]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full, the old content stays and the temporary file is removed."""
    path = tmp_path / "map.pgm"
    path.write_bytes(b"old")

    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")

    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("map.pgm", b"old")]
