"""One module per command; the command listener discovers the handlers that they declare."""
