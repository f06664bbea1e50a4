"""Counts per image, then ratios: metrics, curves, budgets, confidence and reports. No model and no torch is needed."""

from importlib import import_module
from typing import Any

# Module -> its public names; imported on first use (PEP 562).
_MODULES = {
    ".bootstrap": ("PairedDifference",),
    ".confidence": ("Reliability", "ScoredTarget", "fit_isotonic", "fit_platt", "fit_temperature", "reliability")
    + ("scored_targets",),
    ".counts": ("ImageCounts", "count_components", "count_hierarchical", "count_image", "target_records"),
    ".curves": ("BUDGET_THRESHOLDS", "BudgetThreshold", "Curves", "OperatingPoint", "threshold_for_budget"),
    ".matching": ("MATCHINGS", "ImageComponents", "label_image"),
    ".metrics": ("METRICS", "Metric", "bootstrap_interval", "detection_scores", "fa_per_million_px", "iou")
    + ("metric_rows", "paired_bootstrap", "pd"),
    ".protocols": ("PROTOCOLS", "Protocol", "find_predictions", "get_protocol", "read_prediction"),
    ".report.outcomes": ("WorstImages",),
    ".report.write": ("NamedEvaluation", "write_report"),
    ".result": ("EvaluationResult", "compare_results", "evaluate_probabilities"),
    ".thresholds": ("ThresholdCounts", "count_image_at", "default_thresholds"),
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
