"""Talking to a model with the prompt it was trained on."""
