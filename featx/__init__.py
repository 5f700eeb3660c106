"""featx: embed images once with a frozen backbone; after that, a classifier takes seconds.

    results = featx.embed("photos/", "mobilenetv2")
    run = featx.fit(results[0].store, "logreg")
    predictor = featx.Predictor.load(run.bundle)

Importing this package imports nothing heavy: each name below is loaded at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featx.backbones import Backbone, describe_layers, list_backbones, load_backbone
    from featx.delivery.bundle import Bundle
    from featx.delivery.prediction import Prediction, Predictor
    from featx.embedding import Embedding, embed
    from featx.errors import FeatxError
    from featx.evaluation import Evaluation
    from featx.image_embedder import ImageEmbedder
    from featx.items import Columns, Item, Manifest, read_archive, read_folder, read_source, read_table
    from featx.items.decoding import Decoded, decode
    from featx.merging import merge_stores
    from featx.options import CompareOptions, EmbedOptions, FineTuneOptions, FitOptions, SplitOptions
    from featx.restoration import Repair, repair_store
    from featx.specs import BackboneSpec, EmbedSpec, FineTuneSpec, HeadSpec, ImageSpec, ViewSpec
    from featx.splitting import SplitTable, split_source
    from featx.store import FeatureStore
    from featx.store.checking import Checkup, check_store
    from featx.store.exchange import export_store, read_export
    from featx.training.comparison import compare
    from featx.training.finetuning import finetune
    from featx.training.frozen import Run, fit
    from featx.training.standings import Comparison, Standing

_MODULES = {
    "featx.backbones": ("Backbone", "describe_layers", "list_backbones", "load_backbone"),
    "featx.delivery.bundle": ("Bundle",),
    "featx.delivery.prediction": ("Prediction", "Predictor"),
    "featx.embedding": ("Embedding", "embed"),
    "featx.errors": ("FeatxError",),
    "featx.evaluation": ("Evaluation",),
    "featx.image_embedder": ("ImageEmbedder",),
    "featx.items": ("Columns", "Item", "Manifest", "read_archive", "read_folder", "read_source", "read_table"),
    "featx.items.decoding": ("Decoded", "decode"),
    "featx.merging": ("merge_stores",),
    "featx.options": ("CompareOptions", "EmbedOptions", "FineTuneOptions", "FitOptions", "SplitOptions"),
    "featx.restoration": ("Repair", "repair_store"),
    "featx.specs": ("BackboneSpec", "EmbedSpec", "FineTuneSpec", "HeadSpec", "ImageSpec", "ViewSpec"),
    "featx.splitting": ("SplitTable", "split_source"),
    "featx.store": ("FeatureStore",),
    "featx.store.checking": ("Checkup", "check_store"),
    "featx.store.exchange": ("export_store", "read_export"),
    "featx.training.comparison": ("compare",),
    "featx.training.finetuning": ("finetune",),
    "featx.training.frozen": ("Run", "fit"),
    "featx.training.standings": ("Comparison", "Standing"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Backbone",
    "BackboneSpec",
    "Bundle",
    "Checkup",
    "Columns",
    "CompareOptions",
    "Comparison",
    "Decoded",
    "EmbedOptions",
    "EmbedSpec",
    "Embedding",
    "Evaluation",
    "FeatureStore",
    "FeatxError",
    "FineTuneOptions",
    "FineTuneSpec",
    "FitOptions",
    "HeadSpec",
    "ImageEmbedder",
    "ImageSpec",
    "Item",
    "Manifest",
    "Prediction",
    "Predictor",
    "Repair",
    "Run",
    "SplitOptions",
    "SplitTable",
    "Standing",
    "ViewSpec",
    "check_store",
    "compare",
    "decode",
    "describe_layers",
    "embed",
    "export_store",
    "finetune",
    "fit",
    "list_backbones",
    "load_backbone",
    "merge_stores",
    "read_archive",
    "read_export",
    "read_folder",
    "read_source",
    "read_table",
    "repair_store",
    "split_source",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    if name in {"errors", "specs"}:  # `featx.errors.StoreError`, without an import of its own
        return import_module(f"featx.{name}")
    if name not in _HOMES:
        msg = f"module 'featx' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
