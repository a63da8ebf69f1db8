"""Fill and free the disk of a server: a small file system, or a limit on the size of files."""

import contextlib
import resource
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from sagastream.testing import EmbeddedServer, bundled_binary

SIZE = 12 * 1024 * 1024

Fsync = Literal["everysec", "always"]


class SmallDisk:
    """A server on a file system of 12 MB, which a ballast file fills.

    Args:
        folder: Where the file system is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"

    @contextlib.contextmanager
    def server(
        self, fsync: Fsync, binary: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[EmbeddedServer]:
        """Run a server with its files on that disk.

        Raises:
            pytest.skip.Exception: This user may not mount a file system.
        """
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(self._folder)]
        done = subprocess.run(mounting, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this user may not mount ({done.stderr.strip()}); see the file limit")
        try:
            monkeypatch.setattr("tempfile.tempdir", str(self._folder))
            with EmbeddedServer(aof=True, fsync=fsync, binary=binary) as store:
                monkeypatch.undo()
                yield store
        finally:
            subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def fill(self, _store: EmbeddedServer) -> None:
        """Fill the file system."""
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as ballast:
            for size in (65536, 1):
                with contextlib.suppress(OSError):
                    while ballast.write(b"x" * size):
                        pass

    def free(self, _store: EmbeddedServer) -> None:
        """Delete the ballast file."""
        self._ballast.unlink()


class FileLimit:
    """A server whose files may not grow beyond a limit; it needs no rights.

    Args:
        folder: Where the program that starts the server is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def server(
        self, fsync: Fsync, binary: str | None, _monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[EmbeddedServer]:
        """Run a server that gets an error at the limit, instead of a signal that kills it."""
        program = self._folder / "server"
        name = shlex.quote(binary or bundled_binary())
        program.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {name} \"$@\"\n", encoding="utf-8")
        program.chmod(0o700)
        with EmbeddedServer(aof=True, fsync=fsync, binary=str(program)) as store:
            yield store

    def fill(self, store: EmbeddedServer) -> None:
        """Set the limit, so that no file grows."""
        _, most = resource.prlimit(store.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (1, most))

    def free(self, store: EmbeddedServer) -> None:
        """Remove the limit, if the server still runs."""
        with contextlib.suppress(ProcessLookupError):
            _, most = resource.prlimit(store.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (most, most))


DISKS: dict[str, Callable[[Path], SmallDisk | FileLimit]] = {
    "12 MB tmpfs": SmallDisk,
    "file size limit": FileLimit,
}
