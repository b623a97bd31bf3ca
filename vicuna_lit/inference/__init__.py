"""Models that answer: on this machine or behind an endpoint, one after another or many at once."""
