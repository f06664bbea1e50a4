"""Images, data sets, splits, training crops, implanted targets and synthetic scenes; arrays, no models."""
