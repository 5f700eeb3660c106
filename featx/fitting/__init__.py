"""Training a head on frozen features: the dataset, the split, the fit, and what is reported of it."""
