"""What is compared: the forms of our format, the ways to equalise, and the levels they are read at."""

from __future__ import annotations

from dataclasses import dataclass

EQUALISATIONS = ("none", "weights", "calibrated")


@dataclass(frozen=True)
class Form:
    """A group form and size."""

    kind: str
    group: int

    def __str__(self) -> str:
        return f"{self.kind} {self.group}"


FORMS = (Form("symmetric", 64), Form("symmetric", 32), Form("affine", 64))


@dataclass(frozen=True)
class Reading:
    """Bits of attention and FFN (body), of embedding and head (ends), and `Model.open`'s act."""

    body: int
    ends: int
    act: str = "auto"

    @property
    def precision(self) -> dict[str, int]:
        """As `Model.open` takes it."""
        return {"attn": self.body, "ffn": self.body, "head": self.ends, "embed": self.ends}

    @property
    def name(self) -> str:
        """The levels."""
        return f"{self.body} bit" if self.body == self.ends else f"{self.body} bit, ends {self.ends}"

    def __str__(self) -> str:
        return self.name if self.act == "auto" else f"{self.name}, {self.act} activations"


FOUR, FOUR_EIGHT, EIGHT, SIXTEEN = Reading(4, 4), Reading(4, 8), Reading(8, 8), Reading(16, 16)
READINGS = (FOUR, FOUR_EIGHT, EIGHT, SIXTEEN, Reading(4, 4, "f32"), Reading(8, 8, "f32"))
