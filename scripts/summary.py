"""Print finished runs as a Markdown table: python scripts/summary.py RUN [RUN ...]."""

import json
import sys
from pathlib import Path

COLUMNS = ("test/psnr_input", "test/psnr", "test/ssim", "test/residual", "test/iterations")


def main() -> None:
    """One row a run folder."""
    print("| run | gkm + net | hyper | steps |", " | ".join(COLUMNS), "|")
    print("|---" * (4 + len(COLUMNS)) + "|")
    for folder in map(Path, sys.argv[1:]):
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        head = (
            folder.name,
            f"{result['gkm']} + {result['net']}",
            result["hyper"],
            result.get("steps", "-"),
        )
        values = [result.get("metrics", {}).get(key) for key in COLUMNS]
        cells = ["-" if value is None else f"{value:.4g}" for value in values]
        print("|", " | ".join([*map(str, head), *cells]), "|")


if __name__ == "__main__":
    main()
