"""Welcomes people by name: a voice where one is installed, else the terminal and its bell."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable

VISIT = 30.0  # seconds out of view that end a visit
# The words come by an argument after "--", or by the environment: a name is never part of a command.
_WINDOWS = (
    "Add-Type -AssemblyName System.Speech; (New-Object System.Speech.Synthesis.SpeechSynthesizer).Speak($env:SAY)"
)
VOICES = (
    ("say", "--"),
    ("espeak-ng", "--"),
    ("espeak", "--"),
    ("spd-say", "--wait", "--"),
    ("powershell", "-NoProfile", "-Command", _WINDOWS),
)


class Greeter:
    """Says "Hello NAME" once a person and visit, on a thread of its own."""

    def __init__(self) -> None:
        voices = (v for v in VOICES if v[0] != "powershell" or sys.platform == "win32")
        self._voice = next((voice for voice in voices if shutil.which(voice[0])), None)
        self._seen: dict[str, float] = {}
        self._names: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._speak, name="greeter", daemon=True).start()

    @property
    def voice(self) -> str:
        """The program that speaks, or "the terminal's bell"."""
        return self._voice[0] if self._voice else "the terminal's bell"

    def see(self, names: Iterable[str], seconds: float) -> None:
        """Greets those in view who were not there for `VISIT` seconds; returns at once."""
        for name in sorted(names):
            if seconds - self._seen.get(name, -VISIT) >= VISIT:
                self._names.put(name)
            self._seen[name] = seconds

    def _speak(self) -> None:
        while True:
            words = f"Hello {self._names.get()}"
            if self._voice is None:
                sys.stderr.write(f"\a{words}\n")
                sys.stderr.flush()
                continue
            command = [*self._voice, words] if self._voice[-1] == "--" else list(self._voice)
            subprocess.run(command, env={**os.environ, "SAY": words}, capture_output=True, check=False)
