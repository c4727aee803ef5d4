"""What follows a run while it trains: records, evaluations, films, checkpoints, the progress bar."""
