"""The ranges of a search: Hydra's override grammar as Optuna's distributions. Importing this needs no Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from plexp.errors import ConfigError, Problem

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


DIGITS = 4
"""Significant ones of a sampled number, so that a trial can be typed; fewer: coarser."""
FORMS = "give interval(a, b), tag(log, interval(a, b)), range(a, b) or choice(a, b)"


@dataclass(frozen=True)
class Range:
    """Range of values that a search tries for one key."""

    key: str
    text: str
    """Override as it was written."""
    distribution: BaseDistribution
    ends: Sequence[str]
    """The values that say whether the range fits the key: both ends, or every choice."""


def parse(
    ranges: Mapping[str, Any], arguments: Sequence[str], parser: OverridesParser
) -> tuple[dict[str, Override], list[str]]:
    """Return the ranges of the config and of the command line, which wins, and the overrides that are not ranges.

    Raises ConfigError for an invalid range, and if there is none.
    """
    overrides: dict[str, Override] = {}
    for key, text in ranges.items():
        try:
            (overrides[key],) = parser.parse_overrides([f"{key}={'null' if text is None else text}"])
        except HydraException:
            raise ConfigError(Problem(key, text, "this is not a range", FORMS)) from None
    overrides |= {override.get_key_element(): override for override in parser.parse_overrides(list(arguments))}
    if overrides.get("seed") is not None and overrides["seed"].is_sweep_override():
        cause, remedy = "a search gives its jobs their seeds itself", "give hydra.sweeper.seeds_per_trial=3"
        raise ConfigError(Problem("seed", overrides["seed"].get_value_string(), cause, remedy))
    sweeps = {key: override for key, override in overrides.items() if override.is_sweep_override()}
    if not sweeps:
        remedy = "choose a config of ranges (search=ppo), or give 'algo.learning_rate=tag(log, interval(1e-4, 1e-2))'"
        raise ConfigError(Problem("hydra/sweeper", "optuna", "there is no range to search", remedy))
    fixed = [str(override.input_line) for override in overrides.values() if not override.is_sweep_override()]
    return sweeps, fixed


def range_of(key: str, override: Override, usual: DictConfig) -> Range:
    """Return a range as a distribution of Optuna; `usual` is the configuration without ranges.

    Raises ConfigError for a range that Optuna refuses.
    """
    from optuna.distributions import CategoricalDistribution

    text, value = override.get_value_string(), override.value()
    distribution: BaseDistribution
    try:
        if isinstance(value, IntervalSweep | RangeSweep):
            is_float = isinstance(OmegaConf.select(usual, key.lstrip("+"), throw_on_missing=False), float)
            distribution = _numbers(value, is_float)
            ends = [written(distribution, end) for end in (distribution.low, distribution.high)]  # type: ignore[attr-defined]
        else:
            ends = list(override.sweep_string_iterator())
            distribution = CategoricalDistribution(ends)
    except ValueError as error:
        raise ConfigError(Problem(key, text, f"this is no range ({error})", FORMS)) from None
    return Range(key, text, distribution, ends)


def _numbers(value: IntervalSweep | RangeSweep, is_float: bool) -> BaseDistribution:
    """Return numbers, integers if both ends are integers and the key's own value is not a fraction."""
    from optuna.distributions import FloatDistribution, IntDistribution

    is_log, step = "log" in value.tags, None
    low, high = value.start, getattr(value, "end", None)
    if isinstance(value, RangeSweep):
        step, numbers = value.step, list(value.range())
        if not numbers:
            raise ValueError("it is empty")
        high = numbers[-1]
    if isinstance(low, int) and isinstance(high, int) and (step is not None or not is_float):
        return IntDistribution(low, high, log=is_log, step=int(step or 1))
    return FloatDistribution(float(low or 0), float(high or 0), log=is_log, step=step)


def rounded(distribution: BaseDistribution, value: Any) -> Any:
    """Return a sampled value with few digits, still within its range."""
    if isinstance(value, float) and getattr(distribution, "step", None) is None:
        low, high = float(distribution.low), float(distribution.high)  # type: ignore[attr-defined]
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)
    return value


def written(distribution: BaseDistribution, value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if getattr(distribution, "step", None) is not None and isinstance(value, float):
        return f"{value:.12g}"
    return str(value)


def usual_point(ranges: Sequence[Range], usual: DictConfig) -> dict[str, Any] | None:
    """Return the untuned configuration as a point of the search; None if a range does not contain it."""
    from optuna.distributions import CategoricalDistribution

    point: dict[str, Any] = {}
    for each in ranges:
        value, law = OmegaConf.select(usual, each.key.lstrip("+"), throw_on_missing=False), each.distribution
        if isinstance(law, CategoricalDistribution):
            text = "null" if value is None else str(value).lower()
            held = [choice for choice in law.choices if str(choice).lower() == text]
        else:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            held = [value] if is_number and law.low <= value <= law.high else []  # type: ignore[attr-defined]
        if not held:
            return None
        point[each.key] = held[0]
    return point
