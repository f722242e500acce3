"""Checkpoints in, stores out: Hugging Face directories and llama2.c files, tile by tile."""

from m2cache_rs.convert.equalize import Calibration
from m2cache_rs.convert.run import ConvertReport, Progress, convert

__all__ = ["Calibration", "ConvertReport", "Progress", "convert"]
