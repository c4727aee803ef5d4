"""Statistics over recorded runs: learning-curve figures, groups, tests, verdicts, report."""
