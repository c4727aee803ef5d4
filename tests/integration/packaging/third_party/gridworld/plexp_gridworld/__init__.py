"""A windy gridworld and a residual network for plexp."""
