"""The page as a Hugging Face Space: the bundled detector, or the checkpoint that the variable MODEL names."""

import argparse
import os
from contextlib import ExitStack

from irstd_ldm.app.server import launch_options, private_folder

at_end = ExitStack()  # it is left when the process ends
at_end.enter_context(private_folder())  # gradio is imported after it

from irstd_ldm.app.page import build_page  # noqa: E402
from irstd_ldm.cli.model import load_pipeline, model_name, resolve_device  # noqa: E402

args = argparse.Namespace(model=os.environ.get("MODEL"))
demo = build_page(load_pipeline(args, resolve_device(None)), model_name(args))

if __name__ == "__main__":
    demo.launch(**launch_options())
