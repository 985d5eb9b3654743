"""Print finished runs as a Markdown table: python scripts/summary.py RUN [RUN ...]."""

import json
import sys
from pathlib import Path

COLUMNS = (
    *("val/psnr", "val/nmse", "test/psnr_input", "test/psnr", "test/ssim", "test/nmse"),
    *("test/residual", "test/iterations", "certificate/bound", "certificate/ratio"),
)


def main() -> None:
    """One row a run folder, one column a score that any of them has."""
    files = [Path(name) / "result.json" for name in sys.argv[1:]]
    found = {f.parent: json.loads(f.read_text(encoding="utf-8")) for f in files if f.is_file()}
    known = {key for result in found.values() for key in result.get("metrics", {})}
    columns = [key for key in COLUMNS if key in known]
    columns += sorted({key for key in known if "@" in key}, key=lambda key: int(key.split("@")[1]))
    print("| run | gkm + net | hyper | steps |", " | ".join(columns), "|")
    print("|---" * (4 + len(columns)) + "|")
    for folder, result in found.items():
        head = (
            folder.name,
            f"{result['gkm']} + {result['net']}",
            result["hyper"],
            result.get("steps", "-"),
        )
        values = [result.get("metrics", {}).get(key) for key in columns]
        cells = ["-" if value is None else f"{value:.4g}" for value in values]
        print("|", " | ".join([*map(str, head), *cells]), "|")


if __name__ == "__main__":
    main()
