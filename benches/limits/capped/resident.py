"""Our decoder with every weight in memory: what the arithmetic alone takes, printed as one JSON object.

    python -m limits.capped.resident STORE LEVEL THREADS NEW_TOKENS PROMPT

The prompt runs once before the clock starts, so that the measured run reads nothing.
"""

from __future__ import annotations

import json
import sys
import time

from m2cache_rs import Model


def main() -> None:
    """Warms up, then measures."""
    store, level, threads, new, prompt = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
    with Model.open(store, precision=level, threads=threads) as model:
        ids = model.encode(prompt)
        list(model.generate(ids, 1, temperature=0))
        before = model.stats()["read_bytes"]
        begun = time.perf_counter()
        times = [time.perf_counter() for _ in model.generate(ids, new, temperature=0)]
        read = model.stats()["read_bytes"] - before
    # One row of the embedding a token may be read; weights that did not fit would be thousands of times more.
    if read > len(ids) * new * model.architecture.hidden * 4:
        result: dict[str, float | str] = {"error": f"not resident: {read} bytes were read a second time"}
    else:
        result = {
            "tokens": len(times),
            "prompt_tokens": len(ids),
            "first_token_seconds": times[0] - begun,
            "decode_seconds": times[-1] - times[0],
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
