"""Bytes by address: local files, http(s), S3 and what fsspec knows, with retries, deadlines and a bounded cache."""

from resflow.storage.store import Store

__all__ = ["Store"]
