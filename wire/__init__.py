"""Formats that cross a process boundary."""
