"""A job's run in Weights & Biases: opened, guarded, and told what the job is."""
