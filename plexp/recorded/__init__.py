"""Restores, evaluates, films, exports, reproduces and re-simulates recorded runs."""
