"""The state of a run in files that any layout reads."""
