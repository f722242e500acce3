"""What is summed over a text: cross-entropy, and the distance to a reference, in blocks for its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m2cache_rs.eval import metrics
from m2cache_rs.eval.bootstrap import weighted_interval
from m2cache_rs.runtime.decoder import Ids

# Resampling fewer gives intervals that are far too narrow; of one, none at all.
_LEAST_BLOCKS = 8


@dataclass
class Scores:
    """Sums over the predicted tokens; the properties are what is reported."""

    compared: bool = False
    tokens: int = 0
    bytes: int = 0
    nats: float = 0.0
    agree: int = 0
    # Sum of KL and tokens of each block: neighbours in a text are alike, so blocks are what is resampled.
    blocks: list[tuple[float, int]] = field(default_factory=list)

    @property
    def perplexity(self) -> float:
        """exp of the mean cross-entropy; infinite where that is no number of 64 bits."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.nats / self.tokens))

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy in bits per byte of the text that was predicted."""
        return self.nats / math.log(2) / self.bytes

    @property
    def kl(self) -> float:
        """Mean distance, in nats a token."""
        return sum(kl for kl, _ in self.blocks) / self.tokens

    @property
    def kl_interval(self) -> tuple[float, float] | None:
        """Bootstrap 95 % interval of the mean, blocks being the units; None of too few of them."""
        blocks = [one for one in self.blocks if one[1]]
        if len(blocks) < _LEAST_BLOCKS:
            return None
        sums, counts = np.array(blocks, np.float64).T
        return weighted_interval(sums, counts)

    def begin_block(self) -> None:
        """What comes now is resampled together."""
        self.blocks.append((0.0, 0))

    def add_rows(self, predicted: metrics.Rows, reference: metrics.Rows | None, targets: Ids) -> None:
        """Adds some rows of log-probabilities, beside the reference's, to the block."""
        self.tokens += len(targets)
        self.nats += float(metrics.cross_entropy(predicted, targets).sum())
        if reference is not None:
            kl, count = self.blocks[-1]
            found = float(metrics.kl_divergence(reference, predicted).sum())
            self.blocks[-1] = kl + found, count + len(targets)
            self.agree += int(metrics.top1_equal(reference, predicted).sum())

    def to_dict(self) -> dict[str, Any]:
        """What is reported; what compares is None without a reference."""
        compared = self.compared
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "mean_kl": self.kl if compared else None,
            "kl_interval": self.kl_interval if compared else None,
            "top1_agreement": self.agree / self.tokens if compared else None,
        }
