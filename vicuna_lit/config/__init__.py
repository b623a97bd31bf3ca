"""Every key that a job has: pydantic classes without torch, and `compose`, which fills them from YAML."""
