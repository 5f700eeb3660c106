"""Embedding by many processes, on one machine or many: each writes shards, and the driver alone seals the store."""
