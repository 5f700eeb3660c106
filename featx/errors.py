"""Every error that featx raises on purpose.

    FeatxError                    exit 1   something that a user can cause and fix
    ├── UsageError                exit 2   arguments that are invalid                (ValueError)
    ├── MissingExtraError         exit 3   an optional package is not installed      (ImportError)
    ├── UnknownNameError          exit 1   a name that is not registered               (LookupError)
    ├── SourceError               exit 1   a folder, table or archive of images      (ValueError)
    ├── ImageError                exit 1   one image that cannot be decoded          (ValueError)
    ├── BackboneError             exit 1   a network that cannot be built or cut     (ValueError)
    │   └── WeightsError          exit 1   its weights are missing or do not match
    ├── StoreError                exit 1   a feature store                           (OSError)
    │   ├── StoreFormatError      exit 1   not a store, or a damaged or foreign one
    │   ├── SpecMismatchError     exit 1   features of another spec
    │   └── StoreLockedError      exit 1   another process is writing
    ├── DataError                 exit 1   features or labels that cannot be fitted  (ValueError)
    └── BundleError               exit 1   a bundle that cannot be loaded            (OSError)
        └── DriftError            exit 1   the installed libraries compute other numbers

Each is also the built-in type in brackets, so that code without knowledge of featx can
catch it. A message is one line: what happened, to which object, and what to do next.
"""

from typing import ClassVar


class FeatxError(Exception):
    """Base of every error that featx raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(FeatxError, ValueError):
    """Arguments that are invalid, or that cannot be combined."""

    exit_code = 2


class MissingExtraError(FeatxError, ImportError):
    """An optional package is needed but not installed, such as OpenVINO where it has no wheels."""

    exit_code = 3


class UnknownNameError(FeatxError, LookupError):
    """A name that is not registered; the message lists the known ones."""


class SourceError(FeatxError, ValueError):
    """A source of images that cannot be read."""


class ImageError(FeatxError, ValueError):
    """One image that cannot be decoded; its message is the quarantine reason."""


class BackboneError(FeatxError, ValueError):
    """A backbone that cannot be built, cut or run."""


class WeightsError(BackboneError):
    """Weights that are missing, cannot be downloaded, or do not match the network."""


class StoreError(FeatxError, OSError):
    """A feature store that cannot be used."""


class StoreFormatError(StoreError):
    """A file that is not a feature store, or a damaged or foreign one."""


class SpecMismatchError(StoreError):
    """A store holds the features of another spec; the message names the fields."""


class StoreLockedError(StoreError):
    """Another process is writing to this store."""


class DataError(FeatxError, ValueError):
    """Features or labels on which no head can be fitted or evaluated."""


class BundleError(FeatxError, OSError):
    """A bundle that cannot be loaded."""


class DriftError(BundleError):
    """The installed libraries no longer compute the numbers recorded in the bundle."""
