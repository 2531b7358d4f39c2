"""The one exception of blockstack that is not an `OSError`."""


class ImageError(Exception):
    """Something is wrong with an image: corrupt, foreign, or using a feature this driver refuses by name."""
