"""featx: embed images once with a frozen backbone; after that, a classifier takes seconds.

    result = featx.embed("photos/", "mobilenetv2")
    run = featx.fit(result.store, "logreg")
    predictor = featx.Predictor.load(run.bundle)

Importing this package imports nothing heavy: each name below is loaded at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featx.audit.auditing import audit_store
    from featx.audit.findings import Audit, Finding
    from featx.backbones import (
        Backbone,
        BackboneInfo,
        describe_backbones,
        describe_layers,
        list_backbones,
        load_backbone,
    )
    from featx.bundle import Bundle
    from featx.comparing.comparison import compare
    from featx.comparison_results import Comparison, ComparisonRow
    from featx.embedding import EmbedResult, embed, embed_layers
    from featx.errors import FeatxError
    from featx.evaluation import Evaluation
    from featx.exporting.exporting import Export, export_bundle
    from featx.finetuning.finetuning import finetune
    from featx.fitting.corrections import correct_manifest
    from featx.fitting.fitting import fit
    from featx.image_embedder import ImageEmbedder
    from featx.importing.importing import import_features
    from featx.items import (
        Columns,
        Item,
        Manifest,
        SourceOptions,
        read_archive,
        read_folder,
        read_source,
        read_table,
        take_shard,
    )
    from featx.items.decoding import Decoded, decode
    from featx.options import (
        CompareOptions,
        EmbedOptions,
        FineTuneOptions,
        FitOptions,
        ScoutOptions,
        SplitOptions,
    )
    from featx.prediction import Predictor
    from featx.prediction_results import Explanation, Neighbour, Prediction
    from featx.publishing import Publication, publish
    from featx.report.maps import StoreMap, map_store
    from featx.report.page import Report, write_report
    from featx.report.similar import Similar, find_similar
    from featx.reporting import ProgressReporter, Reporter
    from featx.restoration import Repair, repair_store
    from featx.results import Run
    from featx.scouting.results import ScoutResult, ScoutRow
    from featx.scouting.scouting import scout
    from featx.serving.options import ServeOptions
    from featx.serving.serving import serve
    from featx.specs import BackboneSpec, EmbedSpec, FineTuneSpec, HeadSpec, ImageSpec, ViewSpec
    from featx.splitting import SplitTable, split_source
    from featx.store import FeatureStore
    from featx.store.exchange import export_store, read_export
    from featx.store.merging import merge_stores
    from featx.store.packing import pack_store
    from featx.store.verification import Verification, verify_store

_MODULES = {
    "featx.audit.auditing": ("audit_store",),
    "featx.audit.findings": ("Audit", "Finding"),
    "featx.backbones": (
        "Backbone",
        "BackboneInfo",
        "describe_backbones",
        "describe_layers",
        "list_backbones",
        "load_backbone",
    ),
    "featx.bundle": ("Bundle",),
    "featx.prediction": ("Predictor",),
    "featx.embedding": ("EmbedResult", "embed", "embed_layers"),
    "featx.errors": ("FeatxError",),
    "featx.evaluation": ("Evaluation",),
    "featx.image_embedder": ("ImageEmbedder",),
    "featx.importing.importing": ("import_features",),
    "featx.items": (
        "Columns",
        "Item",
        "Manifest",
        "SourceOptions",
        "read_archive",
        "read_folder",
        "read_source",
        "read_table",
        "take_shard",
    ),
    "featx.items.decoding": ("Decoded", "decode"),
    "featx.store.merging": ("merge_stores",),
    "featx.options": (
        "CompareOptions",
        "EmbedOptions",
        "FineTuneOptions",
        "FitOptions",
        "ScoutOptions",
        "SplitOptions",
    ),
    "featx.publishing": ("Publication", "publish"),
    "featx.report.page": ("Report", "write_report"),
    "featx.reporting": ("ProgressReporter", "Reporter"),
    "featx.report.maps": ("StoreMap", "map_store"),
    "featx.report.similar": ("Similar", "find_similar"),
    "featx.restoration": ("Repair", "repair_store"),
    "featx.specs": ("BackboneSpec", "EmbedSpec", "FineTuneSpec", "HeadSpec", "ImageSpec", "ViewSpec"),
    "featx.splitting": ("SplitTable", "split_source"),
    "featx.store": ("FeatureStore",),
    "featx.store.packing": ("pack_store",),
    "featx.store.verification": ("Verification", "verify_store"),
    "featx.store.exchange": ("export_store", "read_export"),
    "featx.comparing.comparison": ("compare",),
    "featx.exporting.exporting": ("Export", "export_bundle"),
    "featx.finetuning.finetuning": ("finetune",),
    "featx.fitting.corrections": ("correct_manifest",),
    "featx.fitting.fitting": ("fit",),
    "featx.comparison_results": ("Comparison", "ComparisonRow"),
    "featx.prediction_results": ("Explanation", "Neighbour", "Prediction"),
    "featx.results": ("Run",),
    "featx.scouting.results": ("ScoutResult", "ScoutRow"),
    "featx.scouting.scouting": ("scout",),
    "featx.serving.options": ("ServeOptions",),
    "featx.serving.serving": ("serve",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Audit",
    "Backbone",
    "BackboneInfo",
    "BackboneSpec",
    "Bundle",
    "Columns",
    "CompareOptions",
    "Comparison",
    "ComparisonRow",
    "Decoded",
    "EmbedOptions",
    "EmbedResult",
    "EmbedSpec",
    "Evaluation",
    "Explanation",
    "Export",
    "FeatureStore",
    "FeatxError",
    "Finding",
    "FineTuneOptions",
    "FineTuneSpec",
    "FitOptions",
    "HeadSpec",
    "ImageEmbedder",
    "ImageSpec",
    "Item",
    "Manifest",
    "Neighbour",
    "Prediction",
    "Predictor",
    "ProgressReporter",
    "Publication",
    "Repair",
    "Report",
    "Reporter",
    "Run",
    "ScoutOptions",
    "ScoutResult",
    "ScoutRow",
    "ServeOptions",
    "Similar",
    "SourceOptions",
    "SplitOptions",
    "SplitTable",
    "StoreMap",
    "Verification",
    "ViewSpec",
    "audit_store",
    "compare",
    "correct_manifest",
    "decode",
    "describe_backbones",
    "describe_layers",
    "embed",
    "embed_layers",
    "export_bundle",
    "export_store",
    "find_similar",
    "finetune",
    "fit",
    "import_features",
    "list_backbones",
    "load_backbone",
    "map_store",
    "merge_stores",
    "pack_store",
    "publish",
    "read_archive",
    "read_export",
    "read_folder",
    "read_source",
    "read_table",
    "repair_store",
    "scout",
    "serve",
    "split_source",
    "take_shard",
    "verify_store",
    "write_report",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    if name == "__version__":
        from importlib.metadata import version

        return version("featx")
    if name in {"errors", "specs"}:  # `featx.errors.StoreError`, without an import of its own
        return import_module(f"featx.{name}")
    if name not in _HOMES:
        msg = f"module 'featx' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", "errors", "specs"})
