"""One case on its way into the table: every group of lines is measured, or named as missing, and why.

All that is to come is named as missing before anything is measured: a run that was stopped leaves a file that
says so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import recipe_predictors
from m2cache_rs.errors import M2CacheError
from m2cache_rs.runtime.opening import Opened
from recipe_cases import LEARNING, Case
from recipe_choices import EXACT, PLANE, Choice, Selector, cascade, predicted, sparse, uniform
from recipe_meter import Meter, Options
from recipe_predictors import KINDS
from recipe_rows import ALL_PARTS, CASCADE, KL_TUNED, PEER, UNIFORM, Line, Missing, Table
from recipe_tuned import tuned

PREDICTED = (*(predicted(kind).name for kind in KINDS), CASCADE)
GROUPS = (UNIFORM, ALL_PARTS, EXACT.name, PLANE.name, *PREDICTED, KL_TUNED, PEER)
STOPPED = "the run was stopped before these rows: --resume measures them"


@dataclass(frozen=True)
class Wishes:
    """How a run opens models, how much it tunes on, and what it runs beside."""

    options: Options
    tune_tokens: int
    peer: bool = True
    ggufs: Sequence[Path] = ()


class Run:
    """Measures a case in a directory for what is large and passing; `keep` is called behind every group."""

    def __init__(
        self, case: Case, wishes: Wishes, scratch: Path, table: Table, keep: Callable[[], None]
    ) -> None:
        self.case, self.wishes, self.scratch, self.table, self._keep = case, wishes, scratch, table, keep
        self.meter = Meter(
            case.name, Opened(case.store), case.windows, scratch / "reference.f32", wishes.options
        )
        table.about |= {"counts": self.meter.counts, "tokens": sum(self.meter.counts)}

    def measure(self) -> None:
        """Adds what the table has not yet."""
        for group in GROUPS:
            if not self._has(group):
                self._miss(group, STOPPED)
        self._keep()
        everywhere = [one for one in uniform() if one.group == ALL_PARTS]
        self._choices(UNIFORM, [one for one in uniform() if one.group == UNIFORM])
        self._choices(ALL_PARTS, everywhere)
        for selector in chain((EXACT, PLANE), self._predicted()):
            self._choices(selector.name, list(sparse(selector)))
        self._attempt(KL_TUNED, self._tuned)
        self._attempt(PEER, self._peers)

    def _has(self, group: str) -> bool:
        """Whether it is measured. The table tells cascades apart by their predictor, a wish does not."""
        return any(
            group in (line.group, line.group.split(" (")[0])
            for line in self.table.find(subject=self.case.name)
        )

    def _predicted(self) -> Iterator[Selector]:
        if all(map(self._has, PREDICTED)):
            return
        found = recipe_predictors.make(self.case.store, self.case.learning, LEARNING)
        self.table.about["predictors"][self.case.name] = found.report
        for name, reason in found.reasons.items():
            self._tell_missing(predicted(name).name, reason)
        yield from map(predicted, found.names)
        if found.names:
            yield cascade(found.names[-1])
        else:
            self._tell_missing(CASCADE, "it needs a predictor")

    def _choices(self, group: str, choices: Sequence[Choice]) -> None:
        self._attempt(group, lambda: map(self._ours, choices))

    def _ours(self, choice: Choice, **labels: Any) -> Line:
        labels |= {"share": choice.share, "bands": choice.bands}
        return self.meter.ours(choice.group, choice.label, choice.recipe, **labels)

    def _tuned(self) -> Iterator[Line]:
        wishes, learning = self.wishes, self.case.learning.read_text()
        for one in tuned(self.case.store, learning, wishes.tune_tokens, wishes.options, say):
            yield self._ours(one.choice, budget=one.budget)

    def _peers(self) -> Iterator[Line]:
        if not self.wishes.peer:
            raise ValueError("it was not asked for (--no-peer)")
        import recipe_peers

        if self.wishes.ggufs:
            yield from (recipe_peers.given(self.meter, path) for path in self.wishes.ggufs)
        elif self.case.subject is None:
            raise ValueError("a store has no checkpoint to quantise: name files of the same model (--gguf)")
        else:
            yield from recipe_peers.made(self.meter, self.case.subject(), self.scratch)

    def _attempt(self, group: str, lines: Callable[[], Iterator[Line]]) -> None:
        """A group as a whole, or the reason why not; the rest goes on."""
        if self._has(group):
            return
        try:
            found = list(map(_said, lines()))
        except (M2CacheError, ImportError, ValueError, RuntimeError) as error:
            self._tell_missing(group, str(error))
        else:
            self.table.lines += found
            self._miss(group, None)
        self._keep()

    def _tell_missing(self, group: str, reason: str) -> None:
        say(f"{self.case.name}: {group} is missing: {reason}")
        self._miss(group, reason)

    def _miss(self, group: str, reason: str | None) -> None:
        """Names why a group of this case is missing, or that it is not."""
        name, missing = self.case.name, self.table.missing
        labels = group, group.split(" (")[0]
        missing[:] = [one for one in missing if one.subject != name or one.label not in labels]
        if reason is not None:
            missing.append(Missing(name, group, reason))


def _said(line: Line) -> Line:
    say(f"{line.subject}: {line.group} {line.label}: KL {line.kl:.3g}, perplexity {line.perplexity:.3f}")
    return line


def say(words: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)
