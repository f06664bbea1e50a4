"""Counts per image, then ratios: metrics, curves, budgets, confidence and reports. No model and no torch is needed."""

from .. import lazy_names

_MODULES = {
    ".bootstrap": ("PairedDifference",),
    ".confidence": ("Reliability", "ScoredTarget", "fit_platt", "reliability", "scored_targets"),
    ".counts": ("ImageCounts", "count_components", "count_hierarchical", "count_image", "target_records"),
    ".curves": ("BudgetThreshold", "Curves", "OperatingPoint", "threshold_for_budget"),
    ".matching": ("MATCHINGS", "ImageComponents", "label_image"),
    ".metrics": ("METRICS", "Metric", "bootstrap_interval", "detection_scores", "fa_per_million_px", "iou")
    + ("metric_rows", "paired_bootstrap", "pd"),
    ".protocols": ("PROTOCOLS", "Protocol", "find_predictions", "get_protocol", "read_prediction"),
    ".report.outcomes": ("NamedEvaluation", "WorstImages"),
    ".report.write": ("write_report",),
    ".result": ("EvaluationResult", "compare_results", "evaluate_probabilities"),
    ".thresholds": ("THRESHOLDS", "ThresholdCounts", "count_image_at"),
}
_DEFINED_IN = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_DEFINED_IN)
__getattr__, __dir__ = lazy_names(globals(), _DEFINED_IN)
