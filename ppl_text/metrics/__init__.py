"""L1: metrics, pure functions on arrays."""
