import contextlib
import io
import re
from pathlib import Path

import pytest

_README = Path(__file__).parents[2] / "README.md"


@pytest.mark.blocking
def test_the_example_of_the_readme_runs() -> None:
    """What a newcomer copies first works as it stands."""
    (example,) = re.findall(r"```python\n(.*?)```", _README.read_text(), re.DOTALL)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - ours
    assert said.getvalue().splitlines() == ["start", "progress", "completed", "{'hello': 'world'}"]
