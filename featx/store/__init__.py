"""Feature stores: sealed HDF5 files, and the journal while embedding."""

from featx.store.feature_store import FeatureStore

__all__ = ["FeatureStore"]
