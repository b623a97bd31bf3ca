"""Paid replies in SQLite, so that none is paid for twice: by one process, by two, or after a stop."""

import json
import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any, NamedTuple

_TABLES = """
CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, request TEXT, reply TEXT, created REAL);
CREATE TABLE IF NOT EXISTS bills (run TEXT, key TEXT, usd REAL, input_tokens INTEGER, output_tokens INTEGER,
                                  useful INTEGER, created REAL);
CREATE INDEX IF NOT EXISTS bills_of_a_run ON bills (run);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT, until REAL);
"""


class Bill(NamedTuple):
    """What a reply has cost."""

    usd: float
    input_tokens: int
    output_tokens: int


class Cache:
    """Replies by the hash of their whole request; several processes may share the file.

    Who asks claims the request first; others wait for the reply. A claim of a process that has died is taken over.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(_TABLES)
        self._owner = f"{socket.gethostname()}:{os.getpid()}"

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply to a request, if it was ever given."""
        row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def claim(self, key: str, seconds: float) -> bool:
        """Whether this caller is the one to ask; until `seconds` have passed nobody else is."""
        now = time.time()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            row = self._db.execute("SELECT owner, until FROM claims WHERE key = ?", (key,)).fetchone()
            known = self._db.execute("SELECT 1 FROM replies WHERE key = ?", (key,)).fetchone()
            free = not known and (row is None or row[1] < now or _dead(row[0]))
            if free:
                self._db.execute("REPLACE INTO claims VALUES (?, ?, ?)", (key, self._owner, now + seconds))
        finally:
            self._db.execute("COMMIT")
        return free

    def release(self, key: str) -> None:
        """Lets somebody else ask."""
        self._db.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._owner))

    def bill(self, run: str, key: str, bill: Bill, reply: dict[str, Any] | None, request: dict[str, Any]) -> None:
        """Books what was paid, and keeps the reply if it is of use, both or neither."""
        now = time.time()
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT INTO bills VALUES (?, ?, ?, ?, ?, ?, ?)", (run, key, *bill, reply is not None, now))
        if reply is not None:
            row = (key, json.dumps(request, ensure_ascii=False), json.dumps(reply, ensure_ascii=False), now)
            self._db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", row)
        self._db.execute("COMMIT")

    def spent(self, run: str) -> Bill:
        """All that a run has paid for."""
        row = self._db.execute(
            "SELECT total(usd), total(input_tokens), total(output_tokens) FROM bills WHERE run = ?", (run,)
        ).fetchone()
        return Bill(row[0], int(row[1]), int(row[2]))

    def close(self) -> None:
        """Frees the file."""
        self._db.close()


def _dead(owner: str) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    host, _, pid = owner.rpartition(":")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
