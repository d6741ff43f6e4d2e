"""A report: one HTML file that needs nothing else, and the same as JSON."""

from __future__ import annotations

import base64
import html
import importlib.metadata
import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facerec import __version__, runtime
from facerec.artifacts import write_text

_PACKAGES = ("numpy", "scikit-learn", "opencv-python", "onnxruntime", "mtcnn", "keras-facenet")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd }
td:not(:first-child), th:not(:first-child) { text-align: right } img { max-width: 100%; margin: .5rem 0 }
.note { color: #555 } details { margin: 1rem 0 } code { background: #f3f3f3; padding: 0 .2rem }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } img { background: white }
  th, td { border-color: #444 } .note { color: #aaa } code { background: #333 } }
"""


@dataclass
class Report:
    """What an evaluation found, in the order that a reader wants it.

    Attributes:
        name: of the protocol.
        title: for people.
        summary: what was done, in sentences.
        tables: (caption, head, rows).
        pictures: (caption, PNG).
        result: for programs.
        settings: what changes the result.
    """

    name: str
    title: str
    summary: list[str]
    result: dict[str, Any]
    settings: dict[str, Any]
    tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)
    pictures: list[tuple[str, bytes]] = field(default_factory=list)

    def write(self, folder: Path) -> list[Path]:
        """Writes NAME.html and NAME.json into a folder; returns their paths."""
        made = {"settings": self.settings, "made with": made_with()}
        paths = [folder / f"{self.name}.html", folder / f"{self.name}.json"]
        write_text(paths[0], self._html(made))
        write_text(paths[1], json.dumps({**self.result, **made}, indent=1, ensure_ascii=False))
        return paths

    def text(self) -> str:
        """Title, summary and tables for the terminal."""
        lines = [self.title, *(f"  {line}" for line in self.summary)]
        for caption, head, rows in self.tables:
            width = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
            lines += ["", f"  {caption}"]
            for first, *rest in [head, *rows]:
                cells = [first.ljust(width[0]), *(c.rjust(w) for c, w in zip(rest, width[1:], strict=True))]
                lines.append("  " + "  ".join(cells))
        return "\n".join(lines)

    def _html(self, made: dict[str, Any]) -> str:
        e = html.escape
        parts = [f"<h1>{e(self.title)}</h1>", *(f"<p>{e(line)}</p>" for line in self.summary)]
        for caption, head, rows in self.tables:
            cells = "".join(f"<th>{e(h)}</th>" for h in head)
            body = "".join("<tr>" + "".join(f"<td>{e(c)}</td>" for c in row) + "</tr>" for row in rows)
            parts.append(f"<h2>{e(caption)}</h2><table><tr>{cells}</tr>{body}</table>")
        for caption, png in self.pictures:
            data = base64.b64encode(png).decode()
            parts.append(f'<h2>{e(caption)}</h2><img alt="{e(caption)}" src="data:image/png;base64,{data}">')
        for caption, values in (("Settings, versions, hardware", made), ("All figures", self.result)):
            text = e(json.dumps(values, indent=1, ensure_ascii=False))
            parts.append(f"<details><summary>{caption}</summary><pre>{text}</pre></details>")
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{e(self.title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
        )


def made_with() -> dict[str, Any]:
    """Versions, hardware and time of day."""
    return {
        "facerec": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "engine": runtime.describe(),
        "processor": runtime.processor(),
        "cores": runtime.cpu_count(),
        "system": platform.platform(),
        "made": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
