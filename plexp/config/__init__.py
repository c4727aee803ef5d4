"""Compose, validate and describe configurations; find plugins. Imports Hydra and pydantic, never torch."""
