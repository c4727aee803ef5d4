"""The training loop: types, losses, agent, collector, learner, trainer."""
