"""Exported detectors: written by `irstd-ldm export`, run by onnxruntime or OpenVINO without torch."""
