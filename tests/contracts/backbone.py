"""What every backbone promises, as tests to inherit.

Subclass `BackboneContract` in a test module, name the class `Test...`, and
override the fixture `backbone`.
"""

import numpy as np
import pytest

from featx.errors import BackboneError


class BackboneContract:
    # Largest difference between two ways to compute a vector, as a share of its largest entry.
    tolerance = 1e-4

    @pytest.fixture
    def backbone(self):
        pytest.fail("override the fixture `backbone`")

    @pytest.fixture
    def images(self, backbone):
        """Make seven noisy images, each of its own colour and with a bright block of its own."""
        generator = np.random.default_rng(7)
        base = generator.integers(0, 128, (7, 1, 1, 3)) + generator.integers(
            0, 64, (7, backbone.height, backbone.width, 3)
        )
        for index, image in enumerate(base):
            image[: backbone.height * (index + 1) // 8, : backbone.width // 2] += 64
        return base.astype(np.uint8)

    def check_same(self, found, expected):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == theirs.shape
            assert (np.abs(ours - theirs).max(axis=1) <= self.tolerance * np.abs(theirs).max(axis=1)).all()

    def test_describes_itself(self, backbone):
        assert backbone.uri
        assert backbone.weights in {"imagenet", "none", "computed", "file"}
        assert len(bytes.fromhex(backbone.weights_digest)) == 32
        assert backbone.outputs
        for output in backbone.outputs:
            assert output.dim == np.prod(output.feature_shape)

    def test_gives_one_float32_matrix_per_output(self, backbone, images):
        matrices = backbone.embed(images)
        assert isinstance(matrices, tuple)
        assert [matrix.shape for matrix in matrices] == [(7, output.dim) for output in backbone.outputs]
        assert {matrix.dtype for matrix in matrices} == {np.dtype(np.float32)}
        assert all(np.isfinite(matrix).all() for matrix in matrices)

    def test_leaves_its_input_unchanged(self, backbone, images):
        before = images.copy()
        backbone.embed(images)
        assert np.array_equal(images, before)

    def test_takes_images_that_must_not_be_written(self, backbone, images):
        expected = backbone.embed(images)
        images.setflags(write=False)
        self.check_same(backbone.embed(images), expected)

    def test_keeps_what_it_returned(self, backbone, images):
        first = backbone.embed(images)
        kept = [matrix.copy() for matrix in first]
        backbone.embed(images[::-1])
        assert all(np.array_equal(matrix, copy) for matrix, copy in zip(first, kept, strict=True))

    def test_repeats_itself(self, backbone, images):
        self.check_same(backbone.embed(images), backbone.embed(images))

    def test_an_image_has_the_same_vector_alone_and_in_a_batch(self, backbone, images):
        batch = backbone.embed(images)
        for index in range(len(images)):
            alone = backbone.embed(images[index : index + 1])
            self.check_same(alone, [matrix[index : index + 1] for matrix in batch])

    def test_batch_size_changes_nothing(self, backbone, images):
        many = np.concatenate([images, 255 - images, images[:, ::-1], 255 - images[:, ::-1], images[:, :, ::-1]])[:32]
        expected = backbone.embed(many)
        pieces = [backbone.embed(many[start : start + 7]) for start in range(0, 32, 7)]
        self.check_same([np.concatenate(matrices) for matrices in zip(*pieces, strict=True)], expected)

    def test_takes_images_that_are_not_contiguous(self, backbone, images):
        mirrored = images[::2, :, ::-1]
        assert not mirrored.flags.c_contiguous
        self.check_same(backbone.embed(mirrored), backbone.embed(np.ascontiguousarray(mirrored)))

    def test_different_images_have_different_vectors(self, backbone, images):
        for matrix in backbone.embed(images):
            assert len(np.unique(matrix, axis=0)) == len(images)

    def test_an_empty_batch_gives_no_rows(self, backbone, images):
        matrices = backbone.embed(images[:0])
        assert [matrix.shape for matrix in matrices] == [(0, output.dim) for output in backbone.outputs]
        assert {matrix.dtype for matrix in matrices} == {np.dtype(np.float32)}

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda images: images.astype(np.float32),
            lambda images: images.astype(np.int64),
            lambda images: images[0],
            lambda images: images[:, 1:],
            lambda images: images[:, :, 1:],
            lambda images: images[..., :1],
            lambda images: np.moveaxis(images, -1, 1),
        ],
        ids=["float32", "int64", "one image", "height", "width", "grey", "channels first"],
    )
    def test_refuses_other_arrays(self, backbone, images, spoil):
        with pytest.raises(BackboneError, match="uint8"):
            backbone.embed(spoil(images))
