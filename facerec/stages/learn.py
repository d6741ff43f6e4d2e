"""What live changes about the people it knows, while it runs: add one, save them, load others, see others' changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from facerec.classify import Classifier
from facerec.errors import ArtifactError, FacerecError, InputError
from facerec.follower import Follower
from facerec.galleries import Gallery, open_gallery
from facerec.galleries.file import FileGallery
from facerec.images import crop_face
from facerec.paths import GALLERY
from facerec.quality import TO_ENROLL, assess
from facerec.stages.common import canonical, require_name
from facerec.stages.enroll import gallery_rows
from facerec.stages.names import Watch, names_of, of_nobody
from facerec.tracking import OVERLAP, Track, overlaps
from facerec.types import Face, Gate, Image


class Learner:
    """Changes whom a follower knows; each method returns what to tell the user.

    Args:
        follower: names faces.
        gallery: where people are added; galleries that are saved and loaded stand beside it, or beside the usual one.
        by: how faces are compared once the people have changed: "nearest" or "knn".
        watch: tells what others change in what the follower names by; None where that is not looked for. It is
            replaced when another gallery is, and closed at last by `close`.
        classifier: the file of the one that the follower names by; None where that is a gallery.
    """

    def __init__(
        self,
        follower: Follower,
        gallery: Gallery,
        by: str,
        watch: Watch | None = None,
        classifier: Path | None = None,
    ) -> None:
        self._follower, self._gallery, self._by, self._watch = follower, gallery, by, watch
        self._classifier = classifier
        self._folder = (gallery.where if isinstance(gallery.where, Path) else GALLERY).parent

    def name(self, name: str, image: Image, track: Track) -> str:
        """Adds a track's face to the gallery, and those whom a classifier knew: it is the newest from now on."""
        recognizer = self._follower.recognizer
        embedder, known = recognizer.embedder, recognizer.classifier
        spelled = {canonical(person).casefold(): person for person in known.people}
        try:
            name = spelled.get(canonical(name).casefold()) or require_name(name)
            face = _there(recognizer.detector.detect(image), track.face)
            crop = crop_face(image, face, embedder.space.crop, embedder.input_size)
            quality = assess(face, crop)
            if problems := quality.problems(TO_ENROLL):
                raise InputError(problems[0], "try again with a better view")
            faces = [("live", crop, quality)]
            rows, crops = gallery_rows(name, faces, self._gallery.folder, embedder, recognizer.detector.name)
            state, before = self._gallery.state(), self._is_known
            if not before:  # as the file is by now: who was forgotten meanwhile must not come back
                photos = Classifier.load(self._classifier).photos if self._classifier else known.photos
                rows = replace(photos, gate=None) + rows
            self._gallery.add(rows, crops.get)
            self._know(names_of(self._gallery, self._by, gate=known.gate))
            if not before:
                self._look_at(self._gallery, state, known.gate)
        except (FacerecError, InputError) as error:
            return f"{name} is not added: {error}"
        track.rename(name)
        return f"{name} is added to {self._gallery}"

    def save(self, name: str) -> str:
        """Keeps everybody who is known now in a gallery of its own, beside the present one."""
        try:
            target = self._beside(name) if name else self._gallery
            own = target.where == self._gallery.where
            photos = self._gallery.load() if self._is_known else self._known.photos
            if not own and target.exists():
                raise ArtifactError(f"there is a {target} already", "choose another name")
            if not own:
                target.add(photos)
            elif not self._is_known:
                target.add(replace(photos, gate=None))
        except FacerecError as error:
            return f"not saved: {error}"
        return f"{target} is written: {len(photos.people)} people"

    def load(self, name: str) -> str:
        """Knows the people of another gallery from now on, and adds to it; whoever is in view is looked at anew."""
        try:
            gallery = self._beside(name)
            if not gallery.exists():
                there = ", ".join(sorted(p.stem for p in self._folder.glob("[!.]*.npz")))
                raise ArtifactError(f"there is no {gallery}", f"there is {there or 'none'}")
            state = gallery.state()
            gallery.about().require_space(self._follower.recognizer.embedder.space, str(gallery))
            self._know(names_of(gallery, self._by))
        except FacerecError as error:
            return f"not loaded: {error}"
        self._gallery = gallery
        self._look_at(gallery, state, None)
        for track in self._follower.tracker.tracks:
            track.forget()
        return f"{gallery}: {len(self._known.people)} people"

    def refresh(self) -> None:
        """Knows what others have changed; takes no time where that is nothing."""
        if self._watch is None or (news := self._watch.news()) is None:
            return
        self._know(news)
        for track in self._follower.tracker.tracks:
            if track.name not in news.people:  # forgotten, or unknown until now
                track.forget()

    def close(self) -> None:
        """Looks no more for what others change."""
        if self._watch:
            self._watch.close()

    def _look_at(self, gallery: Gallery, state: object, gate: Gate | None) -> None:
        """Watches a gallery, as it was read in this state, instead."""
        if self._watch is None:
            return
        self._watch.close()
        read = partial(names_of, by=self._by, gate=gate, nobody=True)
        now = self._known.gate
        nobody = of_nobody(self._follower.recognizer.embedder, now.threshold, now.margin)
        self._watch = Watch(open_gallery(gallery.where), read, state, nobody)

    @property
    def _known(self) -> Classifier:
        return self._follower.recognizer.classifier

    @property
    def _is_known(self) -> bool:
        """Whether those who are known are the gallery's: what others have changed in it meanwhile, stays changed."""
        return self._known.model is None and self._gallery.exists()

    def _beside(self, name: str) -> FileGallery:
        require_name(name)
        return FileGallery(self._folder / f"{name.removesuffix('.npz')}.npz")

    def _know(self, classifier: Classifier) -> None:
        self._follower.recognizer = replace(self._follower.recognizer, classifier=classifier)


def _there(faces: list[Face], about: Face) -> Face:
    """The face where a track is: between detections that is where its motion takes it, which may be beside the face."""
    shared = overlaps([about], faces)[0]
    if not len(shared) or shared.max() < OVERLAP:
        raise InputError("the face is not found in this picture", "try again")
    return faces[int(shared.argmax())]
