"""Serving: bundles behind HTTP, in batches over the requests of all clients."""
