"""Our rows: real stores made by `m2cache_rs.convert`, read by `m2cache_rs.Model`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from checkpoints import Checkpoint
from forms import EQUALISATIONS, FORMS, READINGS, Form, Reading
from m2cache_rs import Model
from m2cache_rs.convert import Calibration, ConvertReport, convert
from metrics import Score
from numpy.typing import NDArray
from results import Row
from subjects import Subject

SYSTEM = "m2cache"


def rows(subject: Subject, calibration_ids: NDArray[np.uint32], scratch: Path) -> Iterator[Row]:
    """Every form, every equalisation, every reading of one subject."""
    calibration = calibrate(subject.source, calibration_ids, scratch)
    for form in FORMS:
        for equalised in EQUALISATIONS:
            with _store(subject.source, scratch, form, equalised, calibration) as store:
                for reading in READINGS:
                    bits = bits_per_weight(store, reading, subject.checkpoint)
                    yield subject.row(
                        _score(subject, store, reading), bits, SYSTEM, str(form), equalised, str(reading)
                    )


def calibrate(source: Path, ids: NDArray[np.uint32], scratch: Path) -> Calibration:
    """Activation statistics of a plain store of `source`, as `m2cache convert --calibrate` takes them."""
    with _store(source, scratch, FORMS[0], "none", None) as store, Model.open(store.path, kv="f32") as model:
        rms = model.activation_rms(ids.reshape(-1))
    return Calibration(rms, ids.size, hashlib.sha256(ids.tobytes()).hexdigest()[:32])


def bits_per_weight(store: ConvertReport, reading: Reading, checkpoint: Checkpoint) -> float:
    """Bits read for a weight, over all matrices, scales included and a stride's padding not.

    A tied embedding counts once, as it is stored.
    """
    sizes = checkpoint.matrices
    ends = sum(size for name, size in sizes.items() if name in ("embed", "head")) / sum(sizes.values())
    return float(
        ends * store.bits_per_weight[reading.ends] + (1 - ends) * store.bits_per_weight[reading.body]
    )


def _score(subject: Subject, store: ConvertReport, reading: Reading) -> Score:
    with Model.open(store.path, precision=reading.precision, act=reading.act, kv="f32") as model:
        return subject.score(lambda ids: model.logits(ids, path="prompt"))


@contextmanager
def _store(
    source: Path, scratch: Path, form: Form, equalised: str, calibration: Calibration | None
) -> Iterator[ConvertReport]:
    with TemporaryDirectory(dir=scratch) as folder:
        yield convert(
            source,
            Path(folder) / "bench.m2c",
            form=form.kind,
            group=form.group,
            equalize=equalised == "weights",
            calibration=calibration if equalised == "calibrated" else None,
        )
