"""Makes the golden stores and the worked example of the format: python -m tests.golden.make_format.

Both are frozen with version 1 of the format: this runs when a version is added, never to make a test pass.
"""

from __future__ import annotations

import shutil

from tests.golden import example
from tests.golden.format_cases import CASES, FOLDER, write


def main() -> None:
    for case in CASES:
        shutil.rmtree(FOLDER / case, ignore_errors=True)
        (FOLDER / case).mkdir(parents=True)
        print(case, write(case, FOLDER / case))
    example.replace()


if __name__ == "__main__":
    main()
