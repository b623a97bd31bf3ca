"""How many examples hypothesis tries: all where slow tests run too, as in `.ci/run`; an eighth in the quick set."""

import os

QUICK = "VICUNA_LIT_QUICK_TESTS"
"""The variable that pytest's controller sets for its workers where slow tests are left out."""


def examples(count: int) -> int:
    """Of a test that tries `count` in full."""
    return max(5, count // 8) if os.environ.get(QUICK) else count
