"""Fitting a head on frozen features: the dataset, the split, the fit, and the report."""
