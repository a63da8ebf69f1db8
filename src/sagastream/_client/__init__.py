"""What a requester needs: a session per process and loop, an inbox, replies, timeouts, data loss."""
