"""Callbacks of a run: records, evaluations, films, checkpoints, the progress bar, and the callback plugins."""
