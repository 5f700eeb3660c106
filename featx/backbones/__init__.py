"""Backbones: frozen networks that turn uint8 pixels into vectors."""

from featx.backbones.loading import describe_layers, list_backbones, load_backbone, locate_backbone, parse_uri
from featx.backbones.protocol import Backbone, BackboneRequest, LayerInfo, Output

__all__ = [
    "Backbone",
    "BackboneRequest",
    "LayerInfo",
    "Output",
    "describe_layers",
    "list_backbones",
    "load_backbone",
    "locate_backbone",
    "parse_uri",
]
