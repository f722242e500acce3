"""The model that is scored and, under the same cap on memory, the one it is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from m2cache_rs.config import Precision, PrecisionLike
from m2cache_rs.eval.run import scoring_bytes
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.session import Model

_BEST = (16, 16, 16, 16)


@dataclass(frozen=True)
class Asked:
    """Options as `Model.open` takes them."""

    dram: int | str | None = None
    cache: int | str | None = None
    ctx: int | None = None
    precision: PrecisionLike = None
    verify: str = "first"
    threads: int | None = None
    kv: str = "f16"
    io: str = "auto"


@contextmanager
def open_pair(opened: Opened, asked: Asked, characters: int) -> Iterator[tuple[Model, Model | None, str]]:
    """The model, what to compare it with (the same store at its best), and in words what that is.

    `characters` is the length of the text. A cap holds for both and for the scoring: the reference is left
    what it needs at least, the model takes the rest, and what that cannot use goes to the reference.
    """
    levels = Precision.parse(asked.precision).levels(opened.planes)
    scoring = scoring_bytes(opened.architecture.vocab, characters)
    with ExitStack() as stack:
        itself = levels == _BEST and asked.kv == "f32"
        if itself or opened.planes < 3:
            model = stack.enter_context(_open(opened, asked, scoring))
            yield (model, model, f"itself: this is the store {_AT_BEST}") if itself else (model, None, _NONE)
            return
        model = stack.enter_context(_open(opened, asked, scoring + _least(opened, asked)))
        best = Asked(asked.dram, None, asked.ctx, 16, asked.verify, asked.threads, "f32", asked.io)
        other = stack.enter_context(_open(opened, best, scoring + model.budget.ahead))
        yield model, other, f"the same store {_AT_BEST}"


_AT_BEST = "dense at 16 bits, keys and values in f32"
_NONE = "none: the store leaves out the plane 'low' that 16 bits need (convert with --planes all)"


def _open(opened: Opened, asked: Asked, reserve: int) -> Model:
    return Model.open(
        opened,
        asked.dram,
        asked.cache,
        asked.ctx,
        asked.precision,
        verify=asked.verify,
        threads=asked.threads,
        kv=asked.kv,
        io=asked.io,
        reserve=reserve,
    )


def _least(opened: Opened, asked: Asked) -> int:
    """What the reference takes at least."""
    costs = opened.costs(_BEST, "auto", opened.positions(asked.ctx), asked.threads, "f32")
    return costs.ahead + opened.weights(_BEST).least
