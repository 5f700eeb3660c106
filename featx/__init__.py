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
    from featx.bundle import Bundle
    from featx.comparing.comparison import compare
    from featx.embedding import Embedding, embed
    from featx.errors import FeatxError
    from featx.evaluation import Evaluation
    from featx.finetuning.finetuning import finetune
    from featx.fitting.fitting import Run, fit
    from featx.image_embedder import ImageEmbedder
    from featx.items import Columns, Item, Manifest, read_archive, read_folder, read_source, read_table
    from featx.items.decoding import Decoded, decode
    from featx.options import CompareOptions, EmbedOptions, FineTuneOptions, FitOptions, SplitOptions
    from featx.prediction import Prediction, Predictor
    from featx.restoration import Repair, repair_store
    from featx.results import Comparison, Standing
    from featx.specs import BackboneSpec, EmbedSpec, FineTuneSpec, HeadSpec, ImageSpec, ViewSpec
    from featx.splitting import SplitTable, split_source
    from featx.store import FeatureStore
    from featx.store.checking import Checkup, check_store
    from featx.store.exchange import export_store, read_export
    from featx.store.merging import merge_stores

_MODULES = {
    "featx.backbones": ("Backbone", "describe_layers", "list_backbones", "load_backbone"),
    "featx.bundle": ("Bundle",),
    "featx.prediction": ("Prediction", "Predictor"),
    "featx.embedding": ("Embedding", "embed"),
    "featx.errors": ("FeatxError",),
    "featx.evaluation": ("Evaluation",),
    "featx.image_embedder": ("ImageEmbedder",),
    "featx.items": ("Columns", "Item", "Manifest", "read_archive", "read_folder", "read_source", "read_table"),
    "featx.items.decoding": ("Decoded", "decode"),
    "featx.store.merging": ("merge_stores",),
    "featx.options": ("CompareOptions", "EmbedOptions", "FineTuneOptions", "FitOptions", "SplitOptions"),
    "featx.restoration": ("Repair", "repair_store"),
    "featx.specs": ("BackboneSpec", "EmbedSpec", "FineTuneSpec", "HeadSpec", "ImageSpec", "ViewSpec"),
    "featx.splitting": ("SplitTable", "split_source"),
    "featx.store": ("FeatureStore",),
    "featx.store.checking": ("Checkup", "check_store"),
    "featx.store.exchange": ("export_store", "read_export"),
    "featx.comparing.comparison": ("compare",),
    "featx.finetuning.finetuning": ("finetune",),
    "featx.fitting.fitting": ("Run", "fit"),
    "featx.results": ("Comparison", "Standing"),
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
