"""Export: one model from the pixels of an image to the probabilities of its classes."""
