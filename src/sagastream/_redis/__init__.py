"""Sockets, protocol, connections: the only package that knows the errors of redis-py and hiredis."""
