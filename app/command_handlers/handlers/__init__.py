"""One module a command; the command listener discovers what they declare."""
