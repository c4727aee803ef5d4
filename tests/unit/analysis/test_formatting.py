"""Tests of numbers in params: how they are recognised and sorted."""

from __future__ import annotations

import pytest

from plexp.analysis.formatting import natural, parsed


def test_numbers_are_sorted_by_size_before_words() -> None:
    values = ["null", "100", "1e-3", "nan", "9", "gae", "-2"]
    assert sorted(values, key=natural) == ["-2", "1e-3", "9", "100", "gae", "nan", "null"]


@pytest.mark.parametrize(("text", "value"), [("1e3", 1000.0), ("-2", -2.0), ("null", None), ("", None), (None, None)])
def test_texts_are_parsed_as_numbers_or_none(text: str | None, value: float | None) -> None:
    assert parsed(text) == value
