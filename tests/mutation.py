"""What a run of mutmut has left: python tests/mutation.py, after tox -e mutation.

Prints how many mutants of each module of the core the tests have found, and each that they have
not. Those are to be in ``tests/mutation.md`` with the reason why no test can, or need, find them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEAST = 0.95
#: How a run of the tests ends, by the exit code that mutmut keeps. What never ends is found too.
ENDS = {0: "survived", 1: "found", 3: "found", -24: "found", 24: "found", 36: "found", 152: "found"}


def change_of(mutant: str) -> str:
    """The lines of a mutant that are not as they were."""
    shown = subprocess.run(
        ["mutmut", "show", mutant], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in shown.splitlines() if line[:1] in "+-"][2:]
    return " → ".join(line[1:].strip() for line in lines)


def main() -> int:
    listed = (ROOT / "tests" / "mutation.md").read_text(encoding="utf-8")
    total: Counter[str] = Counter()
    unknown = []
    for path in sorted((ROOT / "mutants/circuitbreaker_django/core").glob("*.meta")):
        ends = json.loads(path.read_text())["exit_code_by_key"]
        checked = {key: ENDS.get(code, "not run") for key, code in ends.items() if code is not None}
        counted = Counter(checked.values())
        if counted:
            print(f"{path.name.partition('.')[0]:10} {dict(counted)}")
        total += counted
        for mutant in (key for key, end in checked.items() if end == "survived"):
            change = change_of(mutant)
            if f"`{change}`" not in listed:
                unknown.append(f"{mutant}\n    {change}")
    share = total["found"] / max(1, total.total())
    print(f"{share:.1%} of {total.total()} found")
    print("\n".join(["not in tests/mutation.md:", *unknown] if unknown else []))
    return int(share < LEAST or bool(unknown))


if __name__ == "__main__":
    sys.exit(main())
