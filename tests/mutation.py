"""Changes the core in all places, one at a time, and sees whether a test fails: tox -e mutation.

Each module is changed in a copy of its own, and only the tests that keep its promises are run.
Prints how many mutants of each the tests have found, and each that they have not, which is to be
in ``tests/mutation.md`` with the reason why no test can, or need.

    tox -e mutation -- gate tally     # these modules only
    python tests/mutation.py --shown  # of the last runs, once more
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = ROOT / "circuitbreaker_django" / "core"
#: The modules with anything that mutmut changes.
MODULES = sorted(path.stem for path in CORE.glob("*.py") if "def " in path.read_text("utf-8"))
COPIES = ROOT / "mutants"
LEAST = 0.95
MUTMUT = (sys.executable, "-m", "mutmut")
#: The tests of a module, besides those of its own name: those of ``tests/core`` that are named.
#: Never test_model and test_threads, which find a mutant by chance.
TESTS = {
    "block": "edges breaker nesting",
    "breaker": "edges protect fallback nesting telling rules options",
    "call": "protect fallback iterate nesting breaker",
    "circuit": "circuit_rules transitions rules edges",
    "errors": "breaker",
    "fallback": "protect iterate",
    "gate": "breaker edges telling view nesting",
    "iterate": "nesting",
    "kinds": "protect",
    "options": "classify policy",
    "policy": "options",
    "protect": "fallback nesting breaker",
    "tally": "view rules protect",
    "trial": "view breaker nesting edges",
    "view": "tally rules breaker nesting protect",
    "window": "tally rules circuit transitions",
}
SETTINGS = """\
[mutmut]
source_paths = circuitbreaker_django
only_mutate = circuitbreaker_django/core/{module}.py
pytest_add_cli_args_test_selection =
{tests}
use_git_change_detection = false
track_dependencies = false
"""
#: How a run of the tests ends, by the exit code that mutmut keeps. What never ends is found too.
ENDS = {0: "survived", 1: "found", 3: "found", -24: "found", 24: "found", 36: "found", 152: "found"}


def change(module: str) -> None:
    """Run the tests of a module with each of its mutants."""
    copy = COPIES / module
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in ("circuitbreaker_django", "tests", "pyproject.toml"):
        (copy / name).symlink_to(ROOT / name)
    paths = [f"tests/core/test_{name}.py" for name in (module, *TESTS.get(module, "").split())]
    tests = "\n".join(f"    {path}" for path in paths if (ROOT / path).exists())
    (copy / "setup.cfg").write_text(SETTINGS.format(module=module, tests=tests))
    subprocess.run([*MUTMUT, "run", "--max-children", "2"], cwd=copy, check=True)


def change_of(mutant: str, copy: Path) -> str:
    """The lines of a mutant that are not as they were."""
    shown = subprocess.run(
        [*MUTMUT, "show", mutant], cwd=copy, capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in shown.splitlines() if line[:1] in "+-"][2:]
    return " → ".join(line[1:].strip() for line in lines)


def listed() -> set[tuple[str, str]]:
    """Module and change of each row of the table."""
    text = (ROOT / "tests" / "mutation.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| (\w+) \| `(.+)` \|", text, re.MULTILINE))


def show(modules: list[str]) -> int:
    """Print what was found. 0 if that is enough, and the table lists the rest and no more."""
    total: Counter[str] = Counter()
    survivors = {}
    for module in modules:
        copy = COPIES / module
        path = copy / f"mutants/circuitbreaker_django/core/{module}.py.meta"
        ends = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        counted = Counter(ENDS.get(code, "not run") for code in ends.values())
        share = counted["found"] / counted.total()
        print(f"{module:10} {counted['found']:5} of {counted.total():5} {share:7.1%}")
        total += counted
        for mutant in (key for key, code in ends.items() if ENDS.get(code) != "found"):
            survivors[mutant] = (module, change_of(mutant, copy))
    share = total["found"] / total.total()
    print(f"{'all':10} {total['found']:5} of {total.total():5} {share:7.1%}")
    rows = {row for row in listed() if row[0] in modules or row[0] not in MODULES}
    unlisted = [f"{mutant}\n    {row[1]}" for mutant, row in survivors.items() if row not in rows]
    untrue = [": ".join(row) for row in sorted(rows - {*survivors.values()})]
    for title, lines in (("not in", unlisted), ("of nothing that survives in", untrue)):
        if lines:
            print("\n".join([f"{title} tests/mutation.md:", *lines]))
    enough = share >= LEAST or len(modules) < len(MODULES)  # a small one alone may have less
    return int(bool(unlisted or untrue) or not enough)


def main(args: list[str]) -> int:
    modules = [arg for arg in args if arg != "--shown"] or MODULES
    if "--shown" not in args:
        for module in modules:
            change(module)
    return show(modules)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
