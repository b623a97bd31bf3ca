"""The six commands: what is typed, what is said, how it ends."""
