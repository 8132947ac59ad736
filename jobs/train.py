"""What `ray job submit` runs: `python jobs/train.py --recipe FILE [FIELD=VALUE ...]`."""

from raymdm.cli import job

job("train")
