"""Simple Policy Optimization for plexp."""
