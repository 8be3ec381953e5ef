"""Crashes of a whole machine, kernel and daemon at once: ``benchmarks/crash-uml``."""
