"""The repository's float32 numpy decoder, reachable from a script outside its package.

`tests/` is not installed, so the checkout's root goes onto the path here and nowhere else.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.reference.checkpoint import load, save, to_stored
from tests.reference.decoder import forward
from tests.reference.weights import Plain

__all__ = ["Plain", "forward", "load", "save", "to_stored"]
