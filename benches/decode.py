"""Decoding and prompts with all weights in memory, beside llama.cpp: speed, and share of bandwidth.

    python benches/decode.py                                     7B and 8B at 4 and 8 bits, five rounds
    python benches/decode.py --shape llama-3-8b --level 4 --repeats 1 --llama-python PATH
    python benches/decode.py --level 4 --context 0 --no-peer

Weights are random (synthetic): the figures say how fast, not how well. llama.cpp runs at its best for this
machine: compiled on it, the file read instead of mapped so that its weights are repacked (the table says how
many bytes were), attention as it prefers, f16 keys and values as ours. Both programs keep their model in
memory for all rounds and are asked in turns; the one that is not asked sleeps. A round measures, for each,

- tokens a second behind a prompt of 16, and the bytes that they touch as a share of what threads that only
  read memory got in the same round;
- the first token of each --prompt-tokens;
- a call that decodes --rows tokens over one that decodes one, logits of all rows: verifying a draft;
- the time of a token at --context positions over that at 64.

Medians of the rounds are printed with their range, and the cores that other work took meanwhile: llama.cpp's
threads wait for each other by spinning, so that other work slows it down out of proportion. Needs memory for
both models at once (20 GB at 8 bits beside --context 4096) and room for their files in --work (22 GB a shape;
--discard removes them when the shape is done); builds llama.cpp from its Python source distribution the first
time. An interrupted comparison goes on with the round it was in.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict

from limits import options
from limits.inram.comparison import Comparison
from limits.inram.summary import DEPTH, Asked
from limits.inram.worker import WorkerError
from limits.journal import Journal
from limits.machine import machine
from limits.peer.gguf_shape import KINDS
from limits.peer.program import Peer
from limits.subject import PLANES, Subject
from m2cache_rs._core import MemoryProbe
from m2cache_rs.machine.machine import last_cache_bytes


def make(subject: Subject, peer: Peer | None) -> None:
    """The files of both programs, unless they are there."""
    subject.make_store()
    if peer:
        subject.make_gguf(peer)


def discard(subjects: Sequence[Subject]) -> None:
    """Removes them again."""
    for subject in subjects:
        shutil.rmtree(subject.store, ignore_errors=True)
        subject.gguf.unlink(missing_ok=True)


def chosen_options() -> argparse.Namespace:
    """The command line."""
    parser = options.parser("decode", __doc__, repeats=5)
    add = parser.add_argument
    add(
        "--level",
        type=int,
        action="append",
        choices=tuple(KINDS),
        help="bits, may be repeated (default: all)",
    )
    add("--prompt-tokens", type=int, action="append", help="may be repeated (default: 512 and 32)")
    add("--rows", type=int, default=8, help="tokens of a verifying call (default 8)")
    add("--context", type=int, default=4096, help="positions of the long text (default 4096); 0: none")
    add("--discard", action="store_true", help="remove the files of a shape when it is done")
    chosen = parser.parse_args()
    chosen.prompt_tokens = chosen.prompt_tokens or [512, 32]
    if min(chosen.repeats, chosen.threads, *chosen.prompt_tokens) < 1:
        parser.error("--repeats, --threads and --prompt-tokens must be at least 1")
    if min(chosen.new_tokens, chosen.rows) < 2:
        parser.error("--new-tokens and --rows must be at least 2")
    if chosen.context and chosen.context <= DEPTH:
        parser.error(f"--context must be above {DEPTH}, or 0")
    return chosen


def main() -> None:
    """Measures, prints, writes the JSON file."""
    chosen = chosen_options()
    work, peer, shapes = options.work(chosen), options.peer(chosen), options.shapes(chosen)
    levels = sorted(set(chosen.level or KINDS))
    asked = Asked(chosen.threads, chosen.new_tokens, chosen.prompt_tokens, chosen.rows, chosen.context)
    where = machine(peer)
    journal = Journal(work / "decode.journal", json.dumps([where, asdict(asked)], sort_keys=True))
    probe = MemoryProbe(min(1 << 30, max(4 * last_cache_bytes(), 256 << 20)), chosen.threads)
    measured = []
    for shape in shapes:
        # One store serves every level: planes that are not read cost nothing.
        subjects = [Subject(shape, level, work, PLANES[levels[-1]], KINDS[level]) for level in levels]
        for subject in subjects:
            make(subject, peer)
            one = Comparison(subject, asked, peer, journal, probe).run(chosen.repeats)
            print("\n".join(one.lines()), end="\n\n", flush=True)
            measured.append(one)
        if chosen.discard:
            discard(subjects)
    options.write(chosen.out, measured, machine=where)
    journal.forget()


if __name__ == "__main__":
    options.run("decode.py", main, [WorkerError], "the same command goes on from here")
