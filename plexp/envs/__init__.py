"""Environments: vectorisation, seeding, spaces, fault checks, re-simulating and filming episodes."""
