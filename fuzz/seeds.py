"""Seeds of the fuzz targets: headers and manifests of the golden stores. Run at the root."""

from __future__ import annotations

import struct
from pathlib import Path

GOLDEN = Path("tests/golden/format")
CORPUS = Path("fuzz/corpus")


def main() -> None:
    """Writes fuzz/corpus."""
    for target in ("header", "manifest"):
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
    for store in GOLDEN.iterdir():
        (CORPUS / "manifest" / store.name).write_bytes((store / "m2cache.json").read_bytes())
        for path in store.glob("*.safetensors"):
            content = path.read_bytes()
            (length,) = struct.unpack_from("<Q", content)
            header = content[8 : 8 + length].rstrip()
            size = struct.pack("<I", len(content) - 8 - length)
            (CORPUS / "header" / f"{store.name}-{path.stem}").write_bytes(size + header)


if __name__ == "__main__":
    main()
