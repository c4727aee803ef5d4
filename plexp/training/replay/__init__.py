"""Learning from past transitions: buffers, their log on disk, and gradient descent on what is drawn."""
