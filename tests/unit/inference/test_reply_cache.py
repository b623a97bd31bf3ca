"""The books: what a run has paid is one row, which its bills keep true whoever writes them."""

import math
import sqlite3
from pathlib import Path

import pytest

from vicuna_lit.inference import reply_cache
from vicuna_lit.inference.reply_cache import Bill, Cache
from vicuna_lit.run_folder import RunError

OLD = """
CREATE TABLE replies (key TEXT PRIMARY KEY, request TEXT, reply TEXT, created REAL);
CREATE TABLE bills (run TEXT, key TEXT, usd REAL, input_tokens INTEGER, output_tokens INTEGER, useful INTEGER,
                    created REAL);
"""
"""Of a file that an earlier version wrote."""
INSERT = "INSERT INTO bills VALUES (?, ?, ?, ?, ?, 0, 0)"


def pay(cache: Cache, run: str, key: str, bill: Bill | None) -> None:
    what, reservation = cache.reserve(run, 0.5, None)
    assert what == "reserved"
    cache.receive(run, key, reservation, bill, "{}")
    cache.keep(key, {"text": "", "finish": "stop"}, {})


def summed(file: Path, run: str) -> tuple[float, int, int]:
    """The same from all bills; what no bill can be is left out."""
    with sqlite3.connect(file) as books:
        rows = books.execute("SELECT usd, input_tokens, output_tokens FROM bills WHERE run = ?", (run,)).fetchall()
    books.close()
    good = [row for row in rows if row[0] is not None and -1e9 <= row[0] <= 1e9]
    usd, inputs, outputs = ([max(0, row[i] or 0) for row in good] for i in range(3))
    return math.fsum(usd), sum(inputs), sum(outputs)


@pytest.mark.promise("A budget is kept, and what is known is not asked again")
def test_the_total_is_that_of_the_bills_whoever_wrote_them(tmp_path):
    file = tmp_path / "replies.sqlite"
    with sqlite3.connect(file) as old:
        old.executescript(OLD)
        odd = [(-32.0, 5, 5), (math.inf, 1, 1), (1e12, 1, 1), (None, 1, 1), (0.25, -7, None), (0.1, 3, 4)]
        old.executemany(INSERT, [("a", f"old {i}", *bill) for i, bill in enumerate(odd)])
    old.close()
    one, other = Cache(file), Cache(file)
    assert one.spent("a") == (0.35, 8, 9) and one.spent("nobody") == (0, 0, 0)
    assert one.spent("a") == pytest.approx(summed(file, "a"))
    for i in range(40):  # two that have the file open, several runs, one that is not billed
        pay((one, other)[i % 2], "ab"[i % 3 == 0], f"new {i}", None if i % 7 == 0 else Bill(0.1 * i, i, 2 * i))
        with sqlite3.connect(file) as hand:  # an earlier version, which knows no totals
            hand.execute(INSERT, ("ab"[i % 2], f"by hand {i}", 0.01, None, 2))
        hand.close()
    for run in "ab":
        assert one.spent(run) == other.spent(run) == pytest.approx(summed(file, run), rel=1e-12)
    with sqlite3.connect(file) as hand:
        hand.execute("DELETE FROM bills WHERE key = 'new 5'")
        hand.execute("UPDATE bills SET usd = 3, run = 'c' WHERE key = 'new 8'")
    hand.close()
    for run in "abc":
        assert one.spent(run) == pytest.approx(summed(file, run), rel=1e-12)
    assert one.spent("c") == (3, 8, 16)


def test_a_bill_that_was_not_kept_is_in_no_total(tmp_path):
    cache = Cache(tmp_path / "replies.sqlite")
    pay(cache, "a", "k", Bill(1.0, 1, 1))
    with pytest.raises(ZeroDivisionError), cache._transaction():  # as if the process had been killed there
        cache._db.execute(INSERT, ("a", "k", 1.0, 1, 1))
        assert cache.spent("a").usd == 2.0
        raise ZeroDivisionError
    assert cache.spent("a") == (1.0, 1, 1)
    assert cache.reserve("a", 0.5, 1.5)[0] == "reserved" and cache.reserve("a", 0.1, 1.5)[0] == "wait"


def test_a_request_costs_the_same_however_many_there_were(tmp_path):
    """Counted in steps of SQLite, not in seconds."""
    cache, steps = Cache(tmp_path / "replies.sqlite"), []

    def work(key: str) -> int:
        steps.clear()
        pay(cache, "a", key, Bill(0.001, 1, 1))
        return len(steps)

    cache._db.set_progress_handler(lambda: steps.append(1) and None, 10)
    work("first")
    few = work("few")
    with cache._transaction():
        cache._db.executemany(INSERT, [("a", f"k{i}", 0.001, 1, 1) for i in range(5000)])
    assert work("many") <= 1.5 * few


def test_a_file_that_another_holds_is_said_and_then_refused_and_used_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reply_cache, "_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(reply_cache, "_WAITS", 2)
    cache = Cache(tmp_path / "replies.sqlite")
    with sqlite3.connect(cache.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunError, match=r"replies\.sqlite: the cache of paid replies cannot be used: .* locked"):
            cache.reserve("a", 1.0, None)
        assert cache.spent("new") == (0, 0, 0)  # which only reads
        assert cache.get("k") is None
        other.execute("ROLLBACK")
    other.close()
    assert "is locked by another process; waiting" in capsys.readouterr().err
    what, reservation = cache.reserve("a", 1.0, None)
    assert what == "reserved"
    for write in (cache.free, cache.lose, cache.release):
        with sqlite3.connect(cache.path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RunError, match="cannot be used"):
                write(reservation)
        other.close()
        assert "is locked by another process; waiting" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/replies\.sqlite: the cache of paid replies cannot be used"):
        Cache(tmp_path / "file" / "replies.sqlite")
