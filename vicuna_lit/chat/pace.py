"""How often one client may ask."""

import threading
import time
from collections import deque


class RateLimiter:
    """So many prompts a minute for each client."""

    def __init__(self, per_minute: int):
        self._most, self._lock = per_minute, threading.Lock()
        self._times: dict[str, deque[float]] = {}

    def wait(self, client: str) -> float:
        """Seconds until the client may ask; 0: now, and it is counted."""
        moment = time.monotonic()
        with self._lock:
            for name in [n for n, times in self._times.items() if times[-1] < moment - 60]:
                del self._times[name]
            times = self._times.setdefault(client, deque(maxlen=self._most))
            if len(times) == self._most and times[0] > moment - 60:
                return times[0] + 60 - moment
            times.append(moment)
            return 0.0
