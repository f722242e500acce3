"""Precisions, budgets and expectations in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from m2cache_rs.config import PARTS, Precision, format_size

if TYPE_CHECKING:
    from m2cache_rs.plan.budget import Budget
    from m2cache_rs.plan.planner import Expectation
    from m2cache_rs.recipe.cut import Cut
    from m2cache_rs.recipe.dial import Chosen
    from m2cache_rs.recipe.recipe import Ffn, Recipe, Sparse
    from m2cache_rs.recipe.tuned import Measured


def level_words(precision: Precision) -> str:
    """Bits of the parts, once where they agree."""
    levels = [getattr(precision, part) for part in PARTS]
    if len(set(levels)) == 1:
        return f"{levels[0]} bits"
    return ", ".join(f"{part} {bits}" for part, bits in zip(PARTS, levels, strict=True)) + " bits"


def chosen_words(chosen: Chosen, heads: int) -> str:
    """A recipe, by its name where it has one that was tuned, and what it was measured to cost.

    `heads`: query heads that the model has.
    """
    name = f"{chosen.name}: " if chosen.name not in ("", "exact") else ""
    cost = f" ({measured_words(chosen.measured)})" if chosen.measured else ""
    return f"{name}{recipe_words(chosen.recipe, heads)}{cost}"


def recipe_words(recipe: Recipe, heads: int) -> str:
    """What is computed: levels, which neurons of the FFN, and which query heads, of so many."""
    if recipe.query_heads is not None:
        from m2cache_rs.recipe.cut import rounded

        counts = sorted({rounded(share, heads) for share in recipe.query_heads})
        some = " to ".join(dict.fromkeys([str(counts[0]), str(counts[-1])]))
        return (
            f"{_neuron_words(recipe)}; {_span(list(recipe.query_heads))} of query heads ({some} of {heads})"
        )
    return _neuron_words(recipe)


def _neuron_words(recipe: Recipe) -> str:
    from m2cache_rs.recipe.recipe import Certified, Dense

    ffn = recipe.ffn
    if isinstance(ffn, Dense):
        words = level_words(recipe.precision)
        alike = ffn.bits == recipe.prompt
        return words if alike else f"{words}, FFN of prompts {recipe.prompt}"
    rest = f"attn {recipe.attn}, head {recipe.head}, embed {recipe.embed} bits"
    prompts = f"all at {recipe.prompt} bits in prompts"
    if isinstance(ffn, Certified):
        return f"{rest}; neurons that are not certified to be off at {ffn.bits} bits, {prompts}"
    return f"{rest}; {_sparse_words(ffn)}, {prompts}"


def _sparse_words(ffn: Sparse) -> str:
    by = f"{ffn.paid} {ffn.predictor}" if ffn.predictor else ffn.paid
    traced = "" if isinstance(ffn.selector, str) else " (paid for; the sets are generated)"
    return f"{_cut_words(ffn.layers)} of neurons by {by}{traced}"


def _cut_words(cuts: tuple[Cut, ...]) -> str:
    """Shares, or from the least to the most where layers differ."""
    from m2cache_rs.recipe.cut import BAND_LEVELS, Above

    if any(isinstance(cut, Above) for cut in cuts):
        return f"at most {_span([cut.most if isinstance(cut, Above) else cut.active for cut in cuts])}"
    shares = [(cut.active, cut.bands) for cut in cuts if not isinstance(cut, Above)]
    bands = zip(BAND_LEVELS, zip(*(bands for _, bands in shares), strict=True), strict=True)
    used = [(bits, _span(list(band))) for bits, band in bands if any(band)]
    levels = f"{used[0][0]} bits" if len(used) == 1 else ", ".join(f"{one} at {bits}" for bits, one in used)
    return f"{_span([active for active, _ in shares])} ({levels})"


def _span(shares: list[float]) -> str:
    low, high = (f"{100 * share:.3g}" for share in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def interval_words(interval: Sequence[float] | None) -> str:
    """An interval of KL; a text has one if it has eight blocks of 32 tokens."""
    if interval is None:
        return "too few tokens to say"
    low, high = interval
    return f"{low:.2e} to {high:.2e}"


def measured_words(measured: Measured) -> str:
    """What tuning measured."""
    return (
        f"measured KL {measured.kl:.2e} nats, 95 %: {interval_words(measured.kl_interval)}; perplexity "
        f"{measured.perplexity:.4g}; {format_size(measured.bytes_per_token)} a token, "
        f"{measured.bits_per_weight:.3g} bits per FFN weight"
    )


def activation_words(recipe: Recipe, act: str) -> str:
    """What the matrices are multiplied with; `act` is `auto` or `f32`."""
    coded = [bits < 16 for bits in (recipe.attn, recipe.head, *_ffn_levels(recipe.ffn))]
    if act == "f32" or not any(coded):
        return "f32 activations"
    return "int8 activations" if all(coded) else "int8 activations below 16 bits"


def _ffn_levels(ffn: Ffn) -> list[int]:
    """Levels at which new tokens meet the FFN, by the scan of what ranks it as well."""
    from m2cache_rs.recipe.cut import BAND_LEVELS, Above
    from m2cache_rs.recipe.recipe import Sparse

    if not isinstance(ffn, Sparse):
        return [ffn.bits]
    used = [
        [score is not None for score in cut.scores]
        if isinstance(cut, Above)
        else [band > 0 for band in cut.bands]
        for cut in ffn.layers
    ]
    levels = [bits for bands in used for bits, some in zip(BAND_LEVELS, bands, strict=True) if some]
    return levels if ffn.paid == "oracle" else [*levels, 4]


def budget_words(budget: Budget, positions: int) -> str:
    """Where the memory goes."""
    split = (
        ("process", budget.base),
        (f"keys and values ({positions} positions)", budget.kv),
        ("scratch", budget.scratch),
        *([("predictor", budget.predictor)] if budget.predictor else []),
        ("ring", budget.ring),
        ("fixed weights", budget.fixed),
    )
    words = ", ".join(f"{name} {format_size(size)}" for name, size in split)
    return f"{format_size(budget.total)}: {words}"


def speed_words(expected: Expectation) -> str:
    """Rate and first token."""
    bound = "reads from the SSD" if expected.bound == "ssd" else "arithmetic"
    caveat = f" ({expected.rates.caveat})" if expected.rates.caveat else ""
    return (
        f"{figures(expected.tokens_per_second)} tokens/s{caveat}, bound by {bound}; "
        f"first token after {seconds(expected.first_token)}"
    )


def seconds(value: float) -> str:
    """A time for a reader."""
    return f"{figures(value * 1e3)} ms" if value < 1 else f"{figures(value)} s"


def figures(value: float) -> str:
    """Three significant figures, written out: 0.0123, 4.56, 1010."""
    text = f"{value:.3g}"
    return f"{float(text):.12f}".rstrip("0").rstrip(".") if "e" in text else text
