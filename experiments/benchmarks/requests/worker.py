"""Asks an endpoint for so many replies, twice: `worker.py <url> <cache> <requests>`; prints the seconds as JSON.

By the clock, and of the processor: the second hardly depends on what else the machine does.

It runs with the package of any checkout since the paid client has been there, under its names of then.
"""

import asyncio
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

try:
    from vicuna_lit.config.compose import load
    from vicuna_lit.inference.paid_client import Client
    from vicuna_lit.inference.reply_cache import Cache
except ModuleNotFoundError:  # where they were at 3f8ebeb
    load, Client, Cache = (
        getattr(import_module(f"vicuna_lit.{module}"), name)
        for module, name in (("compose", "load"), ("evaluate.client", "Client"), ("evaluate.cache", "Cache"))
    )


async def ask_all(client: Any, requests: int) -> None:
    """All at once, as far as the client's limits allow."""
    async with client:
        await asyncio.gather(
            *(client.ask([{"role": "user", "content": f"Is {i} a number?"}], 16, 0.0) for i in range(requests))
        )


def main() -> None:
    """Once from the endpoint, once from the cache."""
    url, cache, requests = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    source = f"{{model: m, url: '{url}', price: {{input: 1, output: 1}}}}"
    config = load("evaluate", f"models=[{source},{{model: n, url: '{url}'}}]", f"requests.cache={cache}")
    seconds = {}
    for what in ("asked", "cached"):
        books = Cache(cache)
        client = Client(config.models[0], config.requests, books, "benchmark", 1.0)  # pyright: ignore[reportArgumentType]
        clock, work = time.perf_counter(), time.process_time()
        asyncio.run(ask_all(client, requests))
        seconds[what] = time.perf_counter() - clock
        seconds[f"{what}, processor"] = time.process_time() - work
        books.close()
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
