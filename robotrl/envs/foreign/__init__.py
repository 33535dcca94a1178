"""Environments that other libraries simulate, behind the same steps as our own."""
