"""The server-side transitions: the Lua library, and a typed stub for each function."""
