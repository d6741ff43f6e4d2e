"""The page that ``facerec app`` opens: one file a page, on the stages that the commands use."""

TOKEN = "FACEREC_APP_TOKEN"
"""Environment variable with what a visitor must know; missing where only this machine can reach the page."""

ADMITTED: set[str] = set()
"""Streamlit's sessions of visitors who gave the token."""

GALLERY = "FACEREC_APP_GALLERY"
"""Environment variable with the gallery that was asked for: a file, or a database's address; missing for the usual."""
