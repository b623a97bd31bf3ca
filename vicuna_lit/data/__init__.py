"""Conversations become token ids with labels, and a plan of which step and row holds which."""
