"""Raw conversations → a clean, documented training set."""
