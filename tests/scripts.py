"""Import the scripts of the project as modules."""

import importlib.util
from types import ModuleType

from app.config import ROOT


def load_script(name: str) -> ModuleType:
    """Import a script of the folder `scripts` by its name without `.py`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
