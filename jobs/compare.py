"""What `ray job submit` runs: `python jobs/compare.py SWEEP_DIR [-o DIR]`."""

from raymdm.cli import job

job("compare")
