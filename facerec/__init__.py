"""facerec: from a folder of videos or photos to a face recogniser that people can trust."""

__version__ = "0.1.0"
