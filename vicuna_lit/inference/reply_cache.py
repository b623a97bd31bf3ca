"""Paid replies and their books in SQLite: none is paid twice, no budget exceeded, by any number of processes."""

import json
import os
import socket
import sqlite3
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vicuna_lit.machine import is_machine_fault
from vicuna_lit.run_folder import MachineError, RunError

_TABLES = """
CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, request TEXT, reply TEXT, created REAL);
CREATE TABLE IF NOT EXISTS bills (run TEXT, key TEXT, usd REAL, input_tokens INTEGER, output_tokens INTEGER,
                                  useful INTEGER, created REAL);
CREATE INDEX IF NOT EXISTS bills_of_a_run ON bills (run);
CREATE INDEX IF NOT EXISTS bills_of_a_request ON bills (key);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT, until REAL);
CREATE TABLE IF NOT EXISTS bodies (key TEXT, run TEXT, body TEXT, created REAL);
CREATE INDEX IF NOT EXISTS bodies_of_a_request ON bodies (key);
CREATE TABLE IF NOT EXISTS reservations (id TEXT PRIMARY KEY, run TEXT, usd REAL, owner TEXT, created REAL);
CREATE INDEX IF NOT EXISTS reservations_of_a_run ON reservations (run);
CREATE TABLE IF NOT EXISTS totals (run TEXT PRIMARY KEY, usd REAL, input_tokens INTEGER, output_tokens INTEGER);
"""
_TOTAL = "SELECT usd, input_tokens, output_tokens FROM totals WHERE run = ?"
_SUM = """
SELECT total(max(usd, 0)), total(max(input_tokens, 0)), total(max(output_tokens, 0))
FROM bills WHERE run = ? AND usd BETWEEN -1e9 AND 1e9
"""
_TRIGGERS = (
    """CREATE TRIGGER IF NOT EXISTS a_bill_counts AFTER INSERT ON bills WHEN new.usd BETWEEN -1e9 AND 1e9 BEGIN
    UPDATE totals SET usd = usd + max(new.usd, 0), input_tokens = input_tokens + ifnull(max(new.input_tokens, 0), 0),
                      output_tokens = output_tokens + ifnull(max(new.output_tokens, 0), 0) WHERE run = new.run;
    END""",
    """CREATE TRIGGER IF NOT EXISTS a_bill_is_gone AFTER DELETE ON bills BEGIN
    DELETE FROM totals WHERE run = old.run;
    END""",
    """CREATE TRIGGER IF NOT EXISTS a_bill_changes AFTER UPDATE OF run, usd, input_tokens, output_tokens ON bills BEGIN
    DELETE FROM totals WHERE run IN (old.run, new.run);
    END""",
)
"""A total goes with its bills, in their transaction, whoever writes them: another version of this program, or a hand.
One that is not there yet, as in a file of an earlier version, is summed up, and kept with the next reservation."""
_LOST = "lost"
_WAIT_SECONDS = 5
_WAITS = 12

Reserved = Literal["reserved", "wait", "over"]


class Bill(NamedTuple):
    """What a reply has cost."""

    usd: float
    input_tokens: int
    output_tokens: int


class Cache:
    """Replies by the hash of their whole request; several processes may share the file.

    A process claims a request before it asks; others wait for the reply, and take over the claim of a dead process.
    The most that a request can cost is reserved before it is sent; without an answer it stays reserved, since it may
    have been billed.

    Raises:
        RunError: from every method: the file is damaged, cannot be written, or stays locked.
    """

    def __init__(self, path: Path):
        self.path = path
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
            self._patiently("PRAGMA journal_mode=WAL")
            with self._transaction():
                for statement in (*filter(str.strip, _TABLES.split(";")), *_TRIGGERS):
                    self._db.execute(statement)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            what = f"{self.path}: the cache of paid replies cannot be used: {error}"
            if is_machine_fault(error):  # of its disk: all that it holds is there
                raise MachineError(f"{what}; mend the disk or make room there, and the same command goes on") from None
            raise RunError(
                f"{what}; mend it, or choose another with requests.cache=<file> (which asks and pays anew)"
            ) from None

    def _patiently(self, statement: str) -> None:
        """Waits while another process holds the file, and says so."""
        for attempt in range(_WAITS):
            try:
                self._db.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or attempt + 1 == _WAITS:
                    raise
                if attempt == 0:
                    print(f"note: {self.path} is locked by another process; waiting for a minute", file=sys.stderr)

    @contextmanager
    def _transaction(self, durable: bool = True) -> Iterator[None]:
        """
        Args:
            durable: it has reached the disk at the end. Else it holds for all processes, and a power loss may take it.
        """
        with self._errors():
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._patiently("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply to a request, if it was ever given."""
        with self._errors():
            row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
            return json.loads(row[0]) if row else None

    def claim(self, key: str, seconds: float) -> bool:
        """Whether this caller is to ask; for so many seconds no other is."""
        now = time.time()
        with self._transaction(durable=False):  # after a power loss nobody is asking
            row = self._db.execute("SELECT owner, until FROM claims WHERE key = ?", (key,)).fetchone()
            known = self._db.execute("SELECT 1 FROM replies WHERE key = ?", (key,)).fetchone()
            free = not known and (row is None or row[1] < now or _dead(row[0]))
            if free:
                self._db.execute("REPLACE INTO claims VALUES (?, ?, ?)", (key, self._owner, now + seconds))
        return free

    def release(self, key: str) -> None:
        """Gives the claim up."""
        with self._transaction(durable=False):
            self._db.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._owner))

    def reserve(self, run: str, usd: float, budget: float | None) -> tuple[Reserved, str]:
        """Sets the most that a request can cost aside, if the budget has it.

        Returns:
            `reserved` and the reservation's id; `wait`: requests under way may turn out to cost less; `over`: it would
            exceed the budget.
        """
        id = uuid.uuid4().hex
        with self._transaction():
            if self._db.execute(_TOTAL, (run,)).fetchone() is None:  # nobody else writes a bill now
                self._db.execute("INSERT INTO totals VALUES (?, ?, ?, ?)", (run, *self.spent(run)))
            if budget is not None and self.spent(run).usd + self.reserved(run) + usd > budget:
                rows = self._db.execute("SELECT owner FROM reservations WHERE run = ?", (run,)).fetchall()
                waits = any(owner != _LOST and not _dead(owner) for (owner,) in rows)
                return ("wait" if waits else "over"), ""
            self._db.execute(
                "INSERT INTO reservations VALUES (?, ?, ?, ?, ?)", (id, run, usd, self._owner, time.time())
            )
        return "reserved", id

    def free(self, reservation: str) -> None:
        """The request was not billed."""
        with self._transaction():
            self._db.execute("DELETE FROM reservations WHERE id = ?", (reservation,))

    def lose(self, reservation: str) -> None:
        """The request has no answer, and may have been billed: it counts as the most from now on."""
        with self._transaction():
            self._db.execute("UPDATE reservations SET owner = ? WHERE id = ?", (_LOST, reservation))

    def reserved(self, run: str) -> float:
        """USD that are set aside: under way, or lost."""
        with self._errors():
            return self._db.execute("SELECT total(usd) FROM reservations WHERE run = ?", (run,)).fetchone()[0]

    def receive(self, run: str, key: str, reservation: str, bill: Bill | None, body: str) -> None:
        """Keeps a body as it came and books what it has cost, both or neither, in place of what was reserved.

        Args:
            bill: None: the body does not tell; what was reserved stays so.
        """
        now = time.time()
        with self._transaction():
            self._db.execute("INSERT INTO bodies VALUES (?, ?, ?, ?)", (key, run, body, now))
            if bill is None:
                self._db.execute("UPDATE reservations SET owner = ? WHERE id = ?", (_LOST, reservation))
                return
            self._db.execute("INSERT INTO bills VALUES (?, ?, ?, ?, ?, ?, ?)", (run, key, *bill, 0, now))
            self._db.execute("DELETE FROM reservations WHERE id = ?", (reservation,))

    def bodies(self, key: str) -> list[str]:
        """All bodies that a request has been answered with."""
        with self._errors():
            rows = self._db.execute("SELECT body FROM bodies WHERE key = ? ORDER BY rowid", (key,)).fetchall()
        return [body for (body,) in rows]

    def keep(self, key: str, reply: dict[str, Any], request: dict[str, Any]) -> None:
        """Keeps the final reply to a request."""
        row = (key, json.dumps(request), json.dumps(reply), time.time())
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", row)
            self._db.execute("DELETE FROM claims WHERE key = ?", (key,))
            self._db.execute(
                "UPDATE bills SET useful = 1 WHERE rowid = (SELECT max(rowid) FROM bills WHERE key = ?)", (key,)
            )

    def spent(self, run: str) -> Bill:
        """All that a run has paid for. It only reads: others may be writing, for however long."""
        with self._errors():
            row = self._db.execute(_TOTAL, (run,)).fetchone() or self._db.execute(_SUM, (run,)).fetchone()
        return Bill(row[0], int(row[1]), int(row[2]))

    def models(self, run: str) -> list[tuple[str, str, int]]:
        """Of a run's replies: the model that was asked, what the server calls the one that answered, and how many."""
        with self._errors():
            rows = self._db.execute(
                "SELECT replies.request, bodies.body FROM bodies JOIN replies USING (key) WHERE run = ?", (run,)
            )
            pairs = [tuple(_model_in(text) for text in row) for row in rows]
        return [(asked, said, count) for (asked, said), count in Counter(pairs).items() if said]

    def close(self) -> None:
        """Frees the file."""
        self._db.close()


def _model_in(text: str) -> str:
    """What a request or a body calls its model; empty where it says none."""
    value = json.loads(text)
    name = value.get("model") if isinstance(value, dict) else None
    return name if isinstance(name, str) else ""


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
