"""The threads in which plans search paths; the searches release the GIL."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache


@cache
def planning_threads() -> ThreadPoolExecutor:
    """Return a pool of one thread per core."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="routes")


# A forked child does not inherit the threads: it makes its own pool.
os.register_at_fork(after_in_child=planning_threads.cache_clear)
