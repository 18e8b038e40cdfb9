"""Manifests with their versions, and the plans that were made of them."""
