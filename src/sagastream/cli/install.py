"""`sagastream install`: load the function library for users who may not.

The right to load functions is one over all tenants of a server: whoever has it can replace the
functions of others. So an administrator loads them, once for each release.
"""

from sagastream._functions.library import LIBRARY, SOURCE
from sagastream.bus import Bus
from sagastream.errors import SagastreamError


class ForeignLibrary(SagastreamError):
    """The server has a library of our name with other code."""


async def install(bus: Bus) -> tuple[str, bool]:
    """Load the function library of this release, if the server does not have it.

    Returns:
        The name of the library, and whether it was loaded now.

    Raises:
        ForeignLibrary: A library with that name has other code.
        ServerUnsuitable: This user may not load functions.
        ServerUnavailable: The server did not answer.
    """
    found = await bus.command("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
    if not found:
        await bus.session().connection.load_functions()
        return LIBRARY, True
    flat = found[0]
    facts = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
    if facts[b"library_code"].decode() != SOURCE:
        raise ForeignLibrary(
            f"{bus.address} has a library {LIBRARY} with other code than this release: find out who "
            f"loaded it, then run FUNCTION DELETE {LIBRARY}, and install again"
        )
    return LIBRARY, False
