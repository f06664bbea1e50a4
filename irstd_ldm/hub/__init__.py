"""Checkpoints as files: their format, the code they carry to the Hub, upload and card. No torch is needed."""
