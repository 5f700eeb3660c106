"""Backbones: frozen networks that turn uint8 pixels into vectors."""

from featx.backbones.catalogue import BackboneInfo
from featx.backbones.loading import (
    describe_backbones,
    describe_layers,
    list_backbones,
    load_backbone,
    locate_backbone,
    parse_uri,
)
from featx.backbones.protocol import Backbone, BackboneRequest, LayerInfo, Output

__all__ = [
    "Backbone",
    "BackboneInfo",
    "BackboneRequest",
    "LayerInfo",
    "Output",
    "describe_backbones",
    "describe_layers",
    "list_backbones",
    "load_backbone",
    "locate_backbone",
    "parse_uri",
]
