"""Training a backbone together with its head, on the items and the split that `fit` uses."""
