"""MLflow records: write, read back, look up. The only package that imports mlflow."""
