"""The files that a call of the page may name: those uploaded to it, and no others."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from gradio_client.utils import is_file_obj_with_meta, traverse


class UploadsOnly(gr.Blocks):
    """Blocks that refuse other files before gradio copies them, or downloads what has a foreign address."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        traverse(inputs, _check_uploaded, is_file_obj_with_meta)  # of every part: gradio looks into all of them
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def _check_uploaded(file: dict[str, Any]) -> dict[str, Any]:
    path = Path(file["path"])
    if not path.is_absolute() or not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("a call may name files uploaded to this page, no others", print_exception=False)
    return file
