"""Decoding under a memory cgroup beside llama.cpp: speed, bytes, and the share of what the disk allows.

    python benches/capped.py                                      7B and 8B at 4 bits, 60 % and 30 % of Q4_0
    python benches/capped.py --repeats 1 --llama-python PATH      one round, with a llama.cpp that is there
    python benches/capped.py --shape llama-3-8b --level 16 --cap 5GB --no-peer
    python benches/capped.py --shape qwen-7b --cap 4GB --no-peer
    python benches/capped.py --prompt-tokens 512 --new-tokens 1   the first token of a long prompt

Weights are random (synthetic): the figures say how fast, not how well. Percentages are of the size that
llama.cpp's Q4_0 GGUF of the shape has. Both programs decode the same number of tokens on the same threads
with f16 keys and values, each from an empty page cache, one after the other; llama.cpp maps its file and does
not repack its weights (it would be killed). Virtual disks drift: the disk is read for --settle seconds before
each capped run and a third of that behind it, and the bound of a run takes what it sustained around it. Needs
a memory cgroup (root, as a rule), a disk that takes O_DIRECT and 8 to 25 GB on it; builds llama.cpp from its
Python source distribution the first time. Stores and GGUF files stay in --work and are used again; an
interrupted comparison goes on where it was.
"""

from __future__ import annotations

import argparse
import json

from limits import options
from limits.capped import cgroup
from limits.capped.comparison import Comparison, cap_bytes
from limits.capped.runs import HEADROOM, RunError, Task
from limits.journal import Journal
from limits.machine import machine
from limits.subject import PLANES, Subject

CAPS = ("60%", "30%")


def chosen_options() -> argparse.Namespace:
    """The command line."""
    parser = options.parser("capped", __doc__, repeats=3)
    add = parser.add_argument
    add("--level", type=int, choices=tuple(PLANES), default=4, help="bits a weight (default 4)")
    add(
        "--cap",
        action="append",
        help="a size or a share of Q4_0, may be repeated (default: 60%% and 30%%)",
    )
    add("--prompt-tokens", type=int, default=16)
    add(
        "--settle",
        type=int,
        default=9,
        help="seconds of reading before a capped run, a third behind it (default 9)",
    )
    chosen = parser.parse_args()
    counts = (chosen.prompt_tokens, chosen.new_tokens, chosen.repeats, chosen.threads, chosen.settle)
    if min(counts) < 1:
        parser.error("tokens, --repeats, --threads and --settle must be at least 1")
    return chosen


def main() -> None:
    """Measures, prints, writes the JSON file."""
    chosen = chosen_options()
    with cgroup.limited(64 << 20):
        pass  # refused now rather than behind minutes of work
    work, peer, shapes = options.work(chosen), options.peer(chosen), options.shapes(chosen)
    counts = (chosen.prompt_tokens, chosen.new_tokens, chosen.threads, chosen.settle)
    tasks = [Task(Subject(shape, chosen.level, work), *counts) for shape in shapes]
    caps, where = chosen.cap or CAPS, machine(peer)
    for task in tasks:
        for cap in caps:
            cap_bytes(cap, task.subject)
    journal = Journal(work / "capped.journal", json.dumps([where, chosen.repeats], sort_keys=True))
    measured = Comparison(tasks, caps, peer, journal).run(chosen.repeats)
    print("\n\n".join("\n".join(one.lines()) for one in measured))
    options.write(chosen.out, measured, machine=where, headroom=HEADROOM)
    journal.forget()


if __name__ == "__main__":
    errors = (cgroup.NoCgroupError, RunError)
    options.run("capped.py", main, errors, "the same command goes on from here")
