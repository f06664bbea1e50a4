"""Images, readers of files, data sets, splits, training crops, implanted targets and synthetic scenes; no models."""

from .. import lazy_names

_MODULES = {
    ".folder": ("IRSTDFolder", "Sample", "read_backgrounds", "read_stem_list", "write_stem_list"),
    ".hf_dataset": ("HFDataset",),
    ".images": ("normalize_image", "to_gray"),
    ".masks": ("mask_levels", "read_mask"),
    ".planted_targets": ("SyntheticScene",),
    ".readers": ("is_sequence", "open_frames", "read_image"),
    ".readers.frame": ("Address", "Frame", "FrameSource", "ImageReadError", "RawFormat"),
    ".readers.sequence_range": ("sequence_range",),
    ".splits": ("split_by_scene",),
    ".synthetic": ("synthetic_scene",),
}
_DEFINED_IN = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_DEFINED_IN)
__getattr__, __dir__ = lazy_names(globals(), _DEFINED_IN)
