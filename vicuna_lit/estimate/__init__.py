"""Memory, hours and dollars of a run, before anything is rented."""
