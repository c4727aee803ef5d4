"""Many runs: launchers, the record of a sweep, its status, hyperparameter search."""
