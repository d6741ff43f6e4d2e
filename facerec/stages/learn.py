"""What live changes about the people it knows, while it runs: add one, save them, load others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from facerec import gallery as galleries
from facerec.artifacts import load_embeddings, save_embeddings
from facerec.classify import Classifier
from facerec.errors import ArtifactError, FacerecError, InputError
from facerec.follower import Follower
from facerec.images import crop_face
from facerec.quality import TO_ENROLL, assess
from facerec.stages.enroll import gallery_rows, require_name
from facerec.stages.train import default_gate
from facerec.tracking import Track
from facerec.types import Embeddings, Gate, Image


class Learner:
    """Changes whom a follower knows; each method returns what to tell the user.

    Args:
        follower: names faces.
        gallery: where people are added; galleries that are saved and loaded stand beside it.
        by: how faces are compared once the people have changed: "nearest" or "knn".
    """

    def __init__(self, follower: Follower, gallery: Path, by: str) -> None:
        self._follower, self._gallery, self._by = follower, gallery, by

    def name(self, name: str, image: Image, track: Track) -> str:
        """Adds a track's face to the gallery, and those whom a classifier knew: it is the newest from now on."""
        recognizer = self._follower.recognizer
        embedder, photos = recognizer.embedder, recognizer.classifier.photos
        crop = crop_face(image, track.face, embedder.space.crop, embedder.input_size)
        quality = assess(track.face, crop)
        # Some of OpenCV's windows know no capitals: who is enrolled keeps the spelling, who is new gets them.
        spelled = {person.casefold(): person for person in photos.people}
        name = spelled.get(name.casefold(), name.title() if name.islower() else name)
        try:
            require_name(name)
            if problems := quality.problems(TO_ENROLL):
                raise InputError(problems[0], "try again with a better view")
            rows = gallery_rows(name, [("live", crop, quality)], self._gallery, embedder, recognizer.detector.name)
            now = galleries.add(self._gallery, rows if self._on_disk else photos + rows)
        except (FacerecError, InputError) as error:
            return f"{name} is not added: {error}"
        self._know(now, recognizer.classifier.gate)
        track.rename(name)
        return f"{name} is added to {self._gallery}"

    def save(self, name: str) -> str:
        """Keeps everybody who is known now in a gallery of its own, beside the present one."""
        photos = self._follower.recognizer.classifier.photos
        try:
            path = self._beside(name) if name else self._gallery
            if path == self._gallery:
                photos = load_embeddings(path) if self._on_disk else galleries.add(path, photos)
            elif path.exists():
                raise ArtifactError(f"there is a {path} already", "choose another name")
            else:
                with galleries.locked(path):
                    save_embeddings(path, photos)
        except FacerecError as error:
            return f"not saved: {error}"
        return f"{path} is written: {len(photos.people)} people"

    def load(self, name: str) -> str:
        """Knows the people of another gallery from now on, and adds to it; whoever is in view is looked at anew."""
        try:
            path = self._beside(name)
            if not path.exists():
                there = ", ".join(sorted(p.stem for p in path.parent.glob("[!.]*.npz")))
                raise ArtifactError(f"there is no {path}", f"there is {there or 'none'}")
            photos = load_embeddings(path)
            photos.require_space(self._follower.recognizer.embedder.space, str(path))
            self._know(photos, default_gate(photos))
        except FacerecError as error:
            return f"not loaded: {error}"
        self._gallery = path
        for track in self._follower.tracker.tracks:
            track.forget()
        return f"{path}: {len(photos.people)} people"

    @property
    def _on_disk(self) -> bool:
        """Whether those who are known are the gallery's: what others have changed in it meanwhile, stays changed."""
        return self._follower.recognizer.classifier.model is None and self._gallery.exists()

    def _beside(self, name: str) -> Path:
        require_name(name)
        return self._gallery.with_name(f"{name.removesuffix('.npz')}.npz")

    def _know(self, photos: Embeddings, gate: Gate) -> None:
        classifier = Classifier.of_gallery(self._by, photos, gate)
        self._follower.recognizer = replace(self._follower.recognizer, classifier=classifier)
