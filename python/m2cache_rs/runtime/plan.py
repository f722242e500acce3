"""A plan: what a model takes under a budget, where it lies, and what that lets expect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from m2cache_rs.config import PARTS
from m2cache_rs.errors import UsageError
from m2cache_rs.runtime.budget import Budget, Levels, least_dram
from m2cache_rs.runtime.planner import Expectation, Rates, Subject, expect
from m2cache_rs.runtime.shape import Shape
from m2cache_rs.runtime.wish import Wish, choose

_PROMPT = 512


@dataclass(frozen=True)
class Request:
    """What is planned for: a cap on memory, room for positions, and a prompt of that many tokens.

    Without a number of them the prompt has 512, or as many as leave room for a new one.
    """

    dram: int | str | None
    ctx: int | None
    prompt: int | None
    threads: int | None
    kv: str


@dataclass(frozen=True)
class Plan:
    """A budget, the least that would do, and what to expect. Sizes are bytes."""

    subject: Subject
    positions: int
    prompt: int
    budget: Budget
    least: int
    expected: Expectation

    @property
    def share(self) -> float:
        """Share of the weights that stays in memory, the same in every part."""
        every = self.subject.weights.all - self.subject.weights.least
        return min(1.0, self.budget.fixed / every) if every else 1.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        weights = asdict(self.subject.weights)
        return {
            "precision": dict(zip(PARTS, self.subject.levels, strict=True)),
            "positions": self.positions,
            "prompt_tokens": self.prompt,
            "budget": self.budget.to_dict(),
            "least_dram": self.least,
            "fixed_share": self.share,
            "fixed_bytes": {part: int(size * self.share) for part, size in weights["parts"].items()},
            "weights": weights,
            "expected": self.expected.to_dict(),
        }


def _prompt(asked: int | None, positions: int, room: str) -> int:
    """Tokens of the prompt; one position stays for what is generated, if there are two."""
    most = max(1, positions - 1)
    if asked is None:
        return min(_PROMPT, most)
    if asked < 1:
        raise UsageError(f"prompt is {asked}; it must have at least 1 token")
    if asked > most:
        raise UsageError(f"a prompt of {asked} tokens and a new one exceed {room} ({positions} positions)")
    return asked


def make(shape: Shape, request: Request, levels: Levels, rates: Rates) -> Plan:
    """The plan of a shape at some levels. UsageError for the request, BudgetError naming the least."""
    wish, positions = Wish.parse(request.dram, None, 0), shape.positions(request.ctx)
    prompt = _prompt(request.prompt, positions, shape.room(positions))
    # As `m2cache generate` opens it, which wants one row of logits at a time.
    costs = shape.costs(levels, "auto", positions, request.threads, request.kv, logit_rows=1)
    subject = shape.subject(levels, request.kv)
    budget = choose(wish, subject.weights, costs)
    expected = expect(subject, budget, rates, prompt, positions - prompt)
    return Plan(subject, positions, prompt, budget, least_dram(subject.weights, costs), expected)
