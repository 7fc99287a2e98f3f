"""L1: corpora, tokenizers and batches of static shape."""
