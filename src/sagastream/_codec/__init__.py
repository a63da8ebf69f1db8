"""Stream entries and payloads: encoding, validation, limits."""
