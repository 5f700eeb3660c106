"""Scouting: several backbones, layers and poolings on a sample of the training items."""
