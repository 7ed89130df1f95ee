"""Where the embedded server keeps its files: below the user's cache."""

from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    return platformdirs.user_cache_path("lmstudio_async")


def default_models_dir() -> Path:
    """The folder of models that is served when none is given."""
    return cache_dir() / "models"
