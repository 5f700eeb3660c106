"""What every backbone must do, as tests to inherit."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from featx.backbones import Backbone
from featx.backbones.protocol import Features, UInt8Images
from featx.errors import BackboneError

_COUNT = 7
_DIGEST_BYTES = 32
_WEIGHTS = {"imagenet", "none", "computed", "file"}

#: Arrays that are not a batch of uint8 RGB images of the right size, by what is wrong with them.
_SPOILED: dict[str, Callable[[UInt8Images], NDArray[Any]]] = {
    "float32": lambda images: images.astype(np.float32),
    "int64": lambda images: images.astype(np.int64),
    "one image": lambda images: images[0],
    "height": lambda images: images[:, 1:],
    "width": lambda images: images[:, :, 1:],
    "grey": lambda images: images[..., :1],
    "channels first": lambda images: np.moveaxis(images, -1, 1),
}


class BackboneContract:
    """Tests that every `Backbone` must pass.

    Inherit from it in a class named `Test...` and override the fixture `backbone`, which returns
    the backbone. A fixture of scope `class` saves time if the backbone is slow to build.

    Attributes:
        tolerance: Largest difference between two ways to compute a vector, as a share of its largest
            entry. Set it to 0.0 if the backbone computes each image exactly alike in every batch.
    """

    tolerance: ClassVar[float] = 1e-4

    @pytest.fixture
    def backbone(self) -> Backbone:
        """Return the backbone to test."""
        pytest.fail("override the fixture `backbone`")

    @pytest.fixture
    def images(self, backbone: Backbone) -> UInt8Images:
        """Make seven noisy images, each with a colour and a bright block of its own."""
        generator = np.random.default_rng(7)
        base = generator.integers(0, 128, (_COUNT, 1, 1, 3)) + generator.integers(
            0, 64, (_COUNT, backbone.height, backbone.width, 3)
        )
        for index, image in enumerate(base):
            image[: backbone.height * (index + 1) // 8, : backbone.width // 2] += 64
        return base.astype(np.uint8)

    def check_same(self, found: Sequence[Features], expected: Sequence[Features]) -> None:
        """Check that two results are equal up to the tolerance."""
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == theirs.shape
            assert (np.abs(ours - theirs).max(axis=1) <= self.tolerance * np.abs(theirs).max(axis=1)).all()

    def test_it_describes_itself(self, backbone: Backbone) -> None:
        """Its uri, weights, digest and outputs are filled in."""
        assert backbone.uri
        assert backbone.weights in _WEIGHTS
        assert len(bytes.fromhex(backbone.weights_digest)) == _DIGEST_BYTES
        assert backbone.outputs
        for output in backbone.outputs:
            assert output.dim == np.prod(output.feature_shape)

    def test_it_returns_one_float32_matrix_per_output(self, backbone: Backbone, images: UInt8Images) -> None:
        """Each matrix has a row per image and finite values."""
        matrices = backbone.embed(images)
        assert isinstance(matrices, tuple)
        assert [matrix.shape for matrix in matrices] == [(_COUNT, output.dim) for output in backbone.outputs]
        assert {matrix.dtype for matrix in matrices} == {np.dtype(np.float32)}
        assert all(np.isfinite(matrix).all() for matrix in matrices)

    def test_it_leaves_its_input_unchanged(self, backbone: Backbone, images: UInt8Images) -> None:
        """The images are the same after the call."""
        before = images.copy()
        backbone.embed(images)
        assert np.array_equal(images, before)

    def test_it_takes_read_only_images(self, backbone: Backbone, images: UInt8Images) -> None:
        """An array that cannot be written to gives the same features."""
        expected = backbone.embed(images)
        images.setflags(write=False)
        self.check_same(backbone.embed(images), expected)

    def test_a_later_call_leaves_earlier_results_unchanged(self, backbone: Backbone, images: UInt8Images) -> None:
        """A result is not a buffer that the next call overwrites."""
        first = backbone.embed(images)
        kept = [matrix.copy() for matrix in first]
        backbone.embed(images[::-1])
        assert all(np.array_equal(matrix, copy) for matrix, copy in zip(first, kept, strict=True))

    def test_the_same_images_have_the_same_features(self, backbone: Backbone, images: UInt8Images) -> None:
        """Nothing is random."""
        self.check_same(backbone.embed(images), backbone.embed(images))

    def test_an_image_has_the_same_features_alone_and_in_a_batch(self, backbone: Backbone, images: UInt8Images) -> None:
        """A row does not depend on the other images of its batch."""
        batch = backbone.embed(images)
        for index in range(len(images)):
            alone = backbone.embed(images[index : index + 1])
            self.check_same(alone, [matrix[index : index + 1] for matrix in batch])

    def test_the_batch_size_changes_nothing(self, backbone: Backbone, images: UInt8Images) -> None:
        """One batch of 32 gives what batches of 7 give."""
        many = np.concatenate([images, 255 - images, images[:, ::-1], 255 - images[:, ::-1], images[:, :, ::-1]])[:32]
        expected = backbone.embed(many)
        pieces = [backbone.embed(many[start : start + _COUNT]) for start in range(0, len(many), _COUNT)]
        self.check_same([np.concatenate(matrices) for matrices in zip(*pieces, strict=True)], expected)

    def test_it_takes_images_that_are_not_contiguous(self, backbone: Backbone, images: UInt8Images) -> None:
        """A view with steps gives what its copy gives."""
        mirrored = images[::2, :, ::-1]
        assert not mirrored.flags.c_contiguous
        self.check_same(backbone.embed(mirrored), backbone.embed(np.ascontiguousarray(mirrored)))

    def test_different_images_have_different_features(self, backbone: Backbone, images: UInt8Images) -> None:
        """No two rows are equal."""
        for matrix in backbone.embed(images):
            assert len(np.unique(matrix, axis=0)) == len(images)

    def test_an_empty_batch_has_no_rows(self, backbone: Backbone, images: UInt8Images) -> None:
        """The result has the usual widths and type."""
        matrices = backbone.embed(images[:0])
        assert [matrix.shape for matrix in matrices] == [(0, output.dim) for output in backbone.outputs]
        assert {matrix.dtype for matrix in matrices} == {np.dtype(np.float32)}

    @pytest.mark.parametrize("fault", _SPOILED)
    def test_it_refuses_other_arrays(self, backbone: Backbone, images: UInt8Images, fault: str) -> None:
        """The error is a `BackboneError` that says which images it takes."""
        with pytest.raises(BackboneError, match="uint8"):
            backbone.embed(_SPOILED[fault](images))
