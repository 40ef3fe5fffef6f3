"""Resflow feeds images of many sizes to PyTorch models."""
