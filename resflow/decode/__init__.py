"""Engines that turn encoded images into placed uint8 batches; each is one method plus close."""

from resflow.decode.base import Decoder, Fill
from resflow.decode.registry import EngineOptions, engine_names, open_engine, register_engine

__all__ = ["Decoder", "EngineOptions", "Fill", "engine_names", "open_engine", "register_engine"]
