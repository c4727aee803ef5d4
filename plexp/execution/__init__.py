"""One run from configuration to finished record: build, train, checkpoint, resume, recover."""
