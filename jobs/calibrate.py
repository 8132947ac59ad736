"""What `ray job submit` runs: `python jobs/calibrate.py --recipe FILE [FIELD=VALUE ...]`."""

from raymdm.cli import job

job("calibrate")
