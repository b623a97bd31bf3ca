"""Requests to an endpoint: this checkout against another one, paired; writes results.json, prints the table.

    git worktree add /tmp/before <commit>
    python experiments/benchmarks/requests/run.py --before /tmp/before

A server on loopback answers at once, so that what is measured is ours: the request's hash, the books in SQLite, the
library's client. Each system asks in a process of its own, with its own cache; the two are interleaved, and ratios are
taken within a round. Seconds are those of the asking alone: no start, no import.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


class Handler(BaseHTTPRequestHandler):
    """Answers every chat with the same few words."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        """One completion."""
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def measured(checkout: Path, url: str, requests: int) -> dict[str, float]:
    """Seconds of all requests when they are asked, and when the cache has them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "worker.py"), url, str(Path(folder) / "replies.sqlite"), str(requests)]
        environment = os.environ | {"PYTHONPATH": str(checkout), "OPENAI_API_KEY": "none"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Rounds, interleaved; the order changes from round to round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    given = parser.parse_args()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    url, systems = f"http://127.0.0.1:{http.server_port}/v1", {"before": given.before.resolve(), "now": ROOT}
    rounds = []
    for i in range(given.rounds):
        order = list(systems) if i % 2 else list(systems)[::-1]
        rounds.append({name: measured(systems[name], url, given.requests) for name in order})
    http.shutdown()
    ratios = {what: [r["now"][what] / r["before"][what] for r in rounds] for what in rounds[0]["now"]}
    given.out.write_text(json.dumps({"requests": given.requests, "rounds": rounds, "now / before": ratios}, indent=1))
    print("| seconds | before | now | now / before |\n|---|---|---|---|")
    for what, found in ratios.items():
        before, now = (statistics.median(r[name][what] for r in rounds) for name in ("before", "now"))
        spread = f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
        print(f"| {given.requests} requests {what} | {before:.2f} | {now:.2f} | {spread} |")


if __name__ == "__main__":
    main()
