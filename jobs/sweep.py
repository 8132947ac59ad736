"""What `ray job submit` runs: `python jobs/sweep.py --recipe FILE [FIELD=VALUE ...]`."""

from raymdm.cli import job

job("sweep")
