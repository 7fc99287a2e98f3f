"""L1: networks only. They know tensors, never densities or sites."""
