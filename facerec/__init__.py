"""facerec: from a folder of videos or photos to a face recogniser that people can trust."""

import os

__version__ = "0.1.0"

# OpenCV's own log lines: what is damaged or missing is reported by us, once. Read when it is loaded.
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
