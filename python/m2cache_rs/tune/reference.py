"""What a store at its best predicts for a text: in a temporary file, since it is larger than a cap may be."""

from __future__ import annotations

import shutil
import tempfile
from typing import IO

import numpy as np

from m2cache_rs.config import format_size
from m2cache_rs.errors import StoreIOError
from m2cache_rs.eval import metrics
from m2cache_rs.recipe.profiles import io_error
from m2cache_rs.runtime.decoder import Floats
from m2cache_rs.runtime.session import Model
from m2cache_rs.tune.text import ROWS, Text, batches


class Reference:
    """Logarithms of probabilities, 4 bytes each, in a file: mapped, its pages would be this process's."""

    def __init__(self, kept: IO[bytes], vocab: int) -> None:
        self._kept, self._vocab = kept, vocab

    def add(self, rows: Floats) -> None:
        """Appends rows [N, vocab], float32. StoreIOError."""
        try:
            self._kept.write(rows.tobytes())
        except OSError as error:
            where = tempfile.gettempdir()
            raise io_error(f"the predictions at 16 bits cannot be written in {where}", error) from error

    def rows(self, first: int, count: int) -> Floats:
        """Rows first..first + count, float32 [count, vocab]."""
        self._kept.seek(first * self._vocab * 4)
        found = self._kept.read(count * self._vocab * 4)
        return np.frombuffer(found, np.float32).reshape(count, self._vocab)


def predictions(model: Model, text: Text, kept: IO[bytes]) -> Reference:
    """What a model predicts for every row of a text, into the file `kept`. StoreIOError."""
    found = Reference(kept, model.architecture.vocab)
    for window in text.windows:
        for _, logits in batches(model, window):
            for row in range(0, len(logits), ROWS):
                found.add(metrics.log_softmax(logits[row : row + ROWS]).astype(np.float32))
    return found


def scratch(size: int) -> IO[bytes]:
    """Where `size` bytes of the reference's predictions lie while recipes are measured: a file without a
    name, of which nothing is left however the process ends. StoreIOError.
    """
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free >= size:
            return tempfile.TemporaryFile(prefix="m2cache-tune-")
    except OSError as error:
        raise io_error("the predictions at 16 bits find no temporary file", error) from error
    raise StoreIOError(
        f"the predictions at 16 bits take {format_size(size)} in {folder}, where {format_size(free)} are "
        "free: fewer --tokens, or another TMPDIR"
    )
