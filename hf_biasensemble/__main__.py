"""`python -m hf_biasensemble COMMAND ...`, the same as `hf-biasensemble COMMAND ...`."""

from hf_biasensemble.cli.main import main

raise SystemExit(main())
