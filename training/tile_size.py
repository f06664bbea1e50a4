"""The default tiles of a trained detector."""

from ..pipelines.detection import IRSTDDetectionPipeline


def cover_crops(pipeline: IRSTDDetectionPipeline, resolution: int) -> None:
    """Make the default tiles at least as large as the crops of training; 0, no tiles, stays.

    Args:
        resolution: Side of the crops, in pixels.
    """
    tile_size = pipeline.config.default_tile_size
    pipeline.register_to_config(default_tile_size=tile_size and max(tile_size, resolution))
