"""A plan: what a model takes under a budget, where it lies, and what that lets expect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from m2cache_rs.errors import UsageError
from m2cache_rs.plan.budget import Budget, least_dram
from m2cache_rs.plan.planner import Expectation, Rates, Subject, expect
from m2cache_rs.plan.shape import Shape
from m2cache_rs.plan.wish import Wish, choose
from m2cache_rs.recipe.dial import Chosen

_PROMPT = 512


@dataclass(frozen=True, kw_only=True)
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

    chosen: Chosen
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

    @property
    def in_memory(self) -> bool:
        """Whether no weight is read twice."""
        return self.share == 1.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        weights = asdict(self.subject.weights)
        return {
            "precision": asdict(self.chosen.recipe.precision),
            "recipe": self.chosen.to_dict(),
            "positions": self.positions,
            "prompt_tokens": self.prompt,
            "budget": self.budget.to_dict(),
            "least_dram": self.least,
            "fixed_share": self.share,
            "fixed_bytes": {part: int(size * self.share) for part, size in weights["stored"].items()},
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


def make(shape: Shape, request: Request, chosen: Chosen, rates: Rates) -> Plan:
    """The plan of a shape under a recipe. UsageError for the request, BudgetError naming the least."""
    recipe = chosen.recipe
    wish, positions = Wish.parse(request.dram, None, 0), shape.positions(request.ctx)
    prompt = _prompt(request.prompt, positions, shape.room(positions))
    # As `m2cache generate` opens it, which wants one row of logits at a time.
    costs = shape.costs(recipe, "auto", positions, request.threads, request.kv, logit_rows=1)
    subject = shape.subject(recipe, request.kv)
    budget = choose(wish, subject.weights, costs)
    expected = expect(subject, budget, rates, prompt, positions - prompt)
    return Plan(chosen, subject, positions, prompt, budget, least_dram(subject.weights, costs), expected)
