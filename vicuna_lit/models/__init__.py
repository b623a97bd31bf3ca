"""Causal language models as pure torch: load, prove, adapt, train on packed rows, export. No Lightning, no run."""
