"""Arrays and folders in, integer counts per image, pure ratios, a report. No model code."""
