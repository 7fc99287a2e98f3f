"""L3: the trainer, its state on disk, and what the user sees of both."""
