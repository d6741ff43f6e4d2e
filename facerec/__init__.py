"""facerec: from a folder of videos or photos to a face recogniser that people can trust."""

import os

__version__ = "0.1.0"

# OpenCV's own log lines: what is damaged or missing is reported by us, once. Read when it is loaded.
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# ONNX Runtime counts what it runs, and for whom, and sends it to its makers: nothing leaves this machine.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
