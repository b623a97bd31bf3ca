"""Any JSON value for any key of any job is a valid config, or a message that names the key; never a traceback."""

import copy
from functools import cache
from typing import Any, get_args

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tests.helpers.examples import examples
from vicuna_lit.config.compose import ConfigError, check, values
from vicuna_lit.config.short_forms import Job

GIVEN: dict[str, tuple[str, ...]] = {
    "prepare": ("raw=x",),
    "evaluate": ("models=[a,b]",),
    "chat": ("model=x",),
}
"""What a job has no default for."""
NUMBERS = (-1, 0, 1, 2**31, 2**64, 10**400, -0.0, 0.5, 1e308, float("inf"), float("nan"))
TEXTS = ("", "auto", "null", "x" * 300, "~", "a/b", "a,b", "${x}", "???", "é\n", "\0", "\ud800", "{}", "[", "inf",
         "1e5", "true", "hf://", "package://")  # fmt: skip
ODD = st.sampled_from([*NUMBERS, *TEXTS])
JSON = ODD | st.recursive(
    ODD | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD.map(str) | st.just("kind"), inner, max_size=3),
    max_leaves=6,
)


@cache
def base(job: Job) -> tuple[dict[str, Any], list[str]]:
    """A job's values, and all its keys."""
    found = values(job, *GIVEN.get(job, ()))
    return found, list(keys(found))


def keys(found: dict[str, Any], prefix: str = "") -> Any:
    for key, value in found.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


def checked(job: Job, changes: dict[str, Any]) -> Any:
    found = copy.deepcopy(base(job)[0])
    for key, value in changes.items():
        *above, last = key.split(".")
        place: Any = found
        for name in above:
            place = place[name] if isinstance(place, dict) and name in place else {}
        if isinstance(place, dict):
            place[last] = value
    try:
        node = OmegaConf.create(found)
    except OmegaConfBaseException:  # no YAML file or command line gets as far with it
        reject()
    return check(job, node)


@pytest.mark.parametrize("job", get_args(Job))
@pytest.mark.promise("Any JSON value for any key is a valid config, or a message that names the key")
def test_any_value_of_any_key_is_taken_or_refused_by_name(job: Job):
    @settings(max_examples=examples(200), deadline=None, derandomize=True)
    @given(st.sampled_from(base(job)[1]), JSON)
    def holds(key: str, value: Any) -> None:
        try:
            config = checked(job, {key: value})
        except ConfigError as error:
            assert error.problems and all(problem and "\n" not in problem for problem in error.problems)
            assert any(name in problem for problem in error.problems for name in key.split(".")), error.problems
        else:
            assert type(config).model_validate_json(config.model_dump_json()) == config

    holds()
