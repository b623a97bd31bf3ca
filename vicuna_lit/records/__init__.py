"""Files of every form become conversations, or say why not: `readers.py` first."""
