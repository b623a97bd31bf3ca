"""What happens between steps: validation, metrics, checkpoints."""
