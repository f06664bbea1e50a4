"""The kinds of output of `detect`."""

PICTURE_KINDS = ("masks", "overlays", "probability")  # DIR/KIND/NAME.png
TABLE_NAMES = {
    "json": "detections.json",
    "csv": "detections.csv",
    "jsonl": "detections.jsonl",
    "coco": "detections_coco.json",
    "geojson": "detections.geojson",
}
KINDS = (*PICTURE_KINDS, *TABLE_NAMES)
DEFAULT_KINDS = ("masks", "overlays", "json", "csv")
