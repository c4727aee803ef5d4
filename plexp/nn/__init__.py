"""Torch building blocks that know no reinforcement learning: distributions, networks, normalization, optimizer, compilation."""
