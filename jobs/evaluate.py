"""What `ray job submit` runs: `python jobs/evaluate.py --recipe FILE [FIELD=VALUE ...]`."""

from raymdm.cli import job

job("evaluate")
