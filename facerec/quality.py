"""Is this face good enough: large, sharp and frontal enough to be enrolled, or to be named at all?

The limits come from 1,669 photographs of Labeled Faces in the Wild: all but about one in a hundred pass those
for enrolling. What a small or blurred face costs in false matches is in docs/choices.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from facerec.types import Face, Image

MIN_CONFIDENCE = 0.9
MAX_YAW = 0.45
PITCH = (0.2, 0.85)
MAX_ROLL = 35.0  # degrees


@dataclass(frozen=True)
class Limits:
    """The smallest face (pixels) and sharpness that will do."""

    size: float
    sharpness: float


TO_ENROLL = Limits(40, 10)
TO_NAME = Limits(20, 3)


@dataclass(frozen=True)
class Quality:
    """What is seen of a face.

    Attributes:
        size: shorter side of its box, pixels.
        sharpness: variance of the Laplacian of the grey crop, as the embedder gets it. Pech-Pacheco et al.,
            "Diatom autofocusing in brightfield microscopy", ICPR 2000.
        confidence: the detector's.
        yaw: of the nose from the middle of the eyes, in distances of the eyes; 0 is frontal, negative turned
            to the viewer's left. None without keypoints, as the next two.
        pitch: place of the nose between eyes (0) and mouth (1); about 0.54 is frontal, less looks up.
        roll: of the eyes' line, degrees.
    """

    size: float
    sharpness: float
    confidence: float
    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None

    @property
    def score(self) -> float:
        """0..1 for comparing photos of one person; 1 is a large, sharp, frontal face, 0 one that gets no name."""
        if self.problems(TO_NAME):
            return 0.0
        turned = abs(self.yaw or 0.0)
        return min(self.size / 80, 1.0) * min(self.sharpness / 30, 1.0) * max(1.0 - turned, 0.0)

    def problems(self, limits: Limits) -> list[str]:
        """Why the face should not be enrolled (or named); empty where it is good enough."""
        found = []
        if self.size < limits.size:
            found.append(f"too small: {math.floor(self.size)} pixels, at least {limits.size:.0f} are needed")
        if self.sharpness < limits.sharpness:
            found.append(f"blurred: sharpness {math.floor(self.sharpness)}, at least {limits.sharpness:.0f} is needed")
        if limits is TO_NAME:
            return found
        if self.confidence < MIN_CONFIDENCE:
            found.append(f"not clearly a face: the detector's confidence is {self.confidence:.2f}")
        if self.yaw is not None and abs(self.yaw) > MAX_YAW:
            found.append(f"turned to the side (viewer's {'left' if self.yaw < 0 else 'right'})")
        if self.pitch is not None and not PITCH[0] <= self.pitch <= PITCH[1]:
            found.append("looking up" if self.pitch < PITCH[0] else "looking down")
        if self.roll is not None and abs(self.roll) > MAX_ROLL:
            found.append(f"tilted by {abs(self.roll):.0f} degrees")
        return found


def assess(face: Face, crop: Image) -> Quality:
    """The quality of a face.

    Args:
        face: as detected.
        crop: (s, s, 3) uint8 RGB, as the embedder gets it.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    if face.keypoints is None:
        return Quality(face.size, sharpness, face.confidence)
    left, right, nose, mouth_left, mouth_right = np.asarray(face.keypoints, float)
    across = right - left
    width = max(float(np.hypot(*across)), 1e-6)
    along = across / width
    down = np.array([-along[1], along[0]])
    middle = (left + right) / 2
    mouth = float(((mouth_left + mouth_right) / 2 - middle) @ down)
    return Quality(
        face.size,
        sharpness,
        face.confidence,
        yaw=float((nose - middle) @ along) / width,
        pitch=float((nose - middle) @ down) / mouth if mouth > 0 else 0.0,
        roll=float(np.degrees(np.arctan2(across[1], across[0]))),
    )
