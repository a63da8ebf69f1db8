import sys
from pathlib import Path

import pytest

from app.config import get_settings
from sagastream import CommandListener, RegistrationError, discover
from sagastream.bus import Bus

_HANDLER = """
from sagastream import multi_stage_reply

@multi_stage_reply(stream="{stream}", event_type="{event_type}")
async def handle(command, progress):
    return {{}}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty, importable package `found_here`."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "found_here"]:
        monkeypatch.delitem(sys.modules, name)
    place = tmp_path / "found_here"
    place.mkdir()
    (place / "__init__.py").write_text("")
    return place


def _write(package: Path, module: str, stream: str, event_type: str) -> None:
    (package / module).write_text(_HANDLER.format(stream=stream, event_type=event_type))


def test_every_handler_of_the_application_is_found() -> None:
    """Every command of a mission and every compensation has a handler."""
    handlers = discover(get_settings().handler_package)
    assert {(handler.stream, handler.event_type) for handler in handlers} == {
        ("resources:commands", "resources:allocate"),
        ("resources:commands", "resources:release"),
        ("routing:commands", "routing:plan"),
        ("exploration:commands", "exploration:perform"),
        ("exploration:commands", "exploration:abort"),
        ("map:commands", "map:integrate"),
        ("map:commands", "map:rollback"),
        ("mission:commands", "mission:start"),
    }


def test_nested_modules_are_walked(package: Path) -> None:
    """Handlers in nested packages are found."""
    (package / "inner").mkdir()
    (package / "inner" / "__init__.py").write_text("")
    _write(package, "one.py", "s:commands", "s:one")
    _write(package, "inner/two.py", "s:commands", "s:two")
    assert {handler.event_type for handler in discover("found_here")} == {"s:one", "s:two"}


def test_imported_handlers_are_not_discovered(package: Path) -> None:
    """Handlers that a module only imports do not count as its own."""
    (package / "borrowed.py").write_text(
        "from app.command_handlers.handlers.plan_route import plan_route\n"
    )
    _write(package, "own.py", "s:commands", "s:own")
    assert [handler.event_type for handler in discover("found_here")] == ["s:own"]


def test_two_handlers_for_one_command_are_an_error_at_start(package: Path) -> None:
    """The order of files must not decide which one runs."""
    _write(package, "one.py", "s:commands", "s:same")
    _write(package, "two.py", "s:commands", "s:same")
    with pytest.raises(RegistrationError, match=r"s:same.*found_here.one.*found_here.two"):
        CommandListener(Bus("redis://127.0.0.1:1"), discover("found_here"))


def test_one_event_type_on_two_streams_is_two_commands(package: Path) -> None:
    """Commands are routed by stream and event type."""
    _write(package, "one.py", "a:commands", "x:do")
    _write(package, "two.py", "b:commands", "x:do")
    assert len(discover("found_here")) == 2


def test_a_missing_package_is_named(package: Path) -> None:
    """The error names the missing package."""
    with pytest.raises(RegistrationError, match="no_such_package"):
        discover("no_such_package")


def test_a_package_without_handlers_is_an_error(package: Path) -> None:
    """A listener without handlers is a configuration error."""
    with pytest.raises(RegistrationError, match="declares no handler"):
        discover("found_here")


def test_a_module_that_does_not_import_stops_the_start(package: Path) -> None:
    """A broken handler module is not skipped silently."""
    (package / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        discover("found_here")


def test_a_plain_function_is_not_a_handler() -> None:
    """A missing decorator is reported at start."""
    with pytest.raises(RegistrationError, match="decorate it"):
        CommandListener(Bus("redis://127.0.0.1:1"), [lambda command, progress: {}])  # type: ignore[list-item]
