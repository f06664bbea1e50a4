"""Images, readers of files, data sets, splits, training crops, implanted targets and synthetic scenes; no models."""

from .. import lazy_names

_MODULES = {
    "Frame": ".readers.frame",
    "FrameSource": ".readers.frame",
    "HFDataset": ".hf_dataset",
    "IRSTDFolder": ".folder",
    "ImageReadError": ".readers.frame",
    "RawFormat": ".readers.frame",
    "Sample": ".folder",
    "SyntheticScene": ".synthetic",
    "is_sequence": ".readers",
    "mask_levels": ".masks",
    "normalize_image": ".images",
    "open_frames": ".readers",
    "read_backgrounds": ".folder",
    "read_image": ".readers",
    "read_mask": ".masks",
    "read_stem_list": ".folder",
    "sequence_range": ".readers.sequence_range",
    "split_by_scene": ".splits",
    "synthetic_scene": ".synthetic",
    "to_gray": ".images",
    "write_stem_list": ".folder",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_names(globals(), _MODULES)
