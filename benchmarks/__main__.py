"""`make bench`: run every claim's file and print its ratios."""

import importlib
import pkgutil
import sys
from pathlib import Path

import benchmarks

TOOLS = {"__main__", "side_by_side"}


def main() -> None:
    """Run all claims, or those named on the command line."""
    names = [
        module.name for module in pkgutil.iter_modules([str(Path(benchmarks.__file__).parent)])
    ]
    chosen = sys.argv[1:] or [name for name in names if name not in TOOLS]
    for name in chosen:
        for text in importlib.import_module(f"benchmarks.{name}").run():
            print(text, flush=True)


main()
