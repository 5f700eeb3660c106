"""Where features live: sealed HDF5 files, and the journal while embedding."""

from featx.store.sealed import FeatureStore

__all__ = ["FeatureStore"]
