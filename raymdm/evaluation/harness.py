"""Trained models in lm-evaluation-harness, as its model `raymdm`.

    python -m raymdm.evaluation.harness --model raymdm --model_args path=FOLDER,tokenizer=FOLDER --tasks TASKS

is lm_eval's own command line. In a program, `register()` comes before `lm_eval.simple_evaluate`.
"""

import importlib.util
import sys

from raymdm.errors import UserError


def register() -> None:
    """Make lm_eval know the model `raymdm`. Raises UserError where lm_eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed: pip install 'raymdm[harness]'")
    from lm_eval.api.registry import register_model

    from raymdm.evaluation.harness_model import HarnessModel

    register_model("raymdm")(HarnessModel)


def main() -> None:
    """lm_eval's command line with one more model; exits with status 2 for what the user can mend."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
