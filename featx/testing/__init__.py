"""Tests for packages that add backbones or heads: inherit them in a test module.

    from featx.testing import BackboneContract

    class TestMine(BackboneContract):
        @pytest.fixture
        def backbone(self):
            return featx.load_backbone("mine")

Only this package imports pytest, and featx never imports this package.
"""

import pytest

pytest.register_assert_rewrite("featx.testing.backbone", "featx.testing.head")

from featx.testing.backbone import BackboneContract  # noqa: E402 - pytest rewrites asserts at the first import only
from featx.testing.head import HeadContract  # noqa: E402 - as above

__all__ = ["BackboneContract", "HeadContract"]
