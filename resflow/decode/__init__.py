"""Engines that turn encoded images into placed uint8 batches; each is one method plus close."""

from resflow.decode.base import Decoder, Fill, open_engine

__all__ = ["Decoder", "Fill", "open_engine"]
