"""`sagastream install`: load the functions, where only an administrator may.

The right to load functions is one over all tenants of a server: who has it can replace the
functions of others. So an administrator loads them, once for each release.
"""

from sagastream._functions.library import LIBRARY, SOURCE
from sagastream.bus import Bus
from sagastream.errors import SagastreamError

_LIST = ("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")


class ForeignLibrary(SagastreamError):
    """The server has a library of our name with other code."""


async def install(bus: Bus) -> tuple[str, bool]:
    """Load the function library of this release where a server does not have it.

    In a cluster, each primary gets it; its replicas get it from there.

    Returns:
        The name of the library, and whether it was loaded now.

    Raises:
        ForeignLibrary: A library with that name has other code.
        ServerUnsuitable: This user may not load functions.
        ServerUnavailable: The server did not answer.
    """
    connection, is_new = bus.session().connection, False
    for node in await connection.primaries():
        found = await connection.call(*_LIST, node=node)
        if not found:
            await connection.load_functions(node=node)
            is_new = True
            continue
        flat = found[0]
        facts = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        if facts[b"library_code"].decode() != SOURCE:
            raise ForeignLibrary(
                f"{bus.address} has a library {LIBRARY} with other code than this release: find "
                f"out who loaded it, then run FUNCTION DELETE {LIBRARY}, and install again"
            )
    return LIBRARY, is_new
