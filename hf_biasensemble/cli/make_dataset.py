"""Build a benchmark dataset: `hf-biasensemble make-dataset NAME --output_dir FOLDER [options]`."""

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.shipped import dataset_scripts, module_in, summary_of


def main(argv: list[str]) -> int:
    """Runs the script of the named dataset with the remaining arguments; without a name, lists the datasets."""
    name, *words = argv or ["--help"]
    scripts = dataset_scripts()
    if name in ("-h", "--help"):
        listed = "\n".join(f"  {name:<18}{summary_of(script)}" for name, script in scripts.items())
        print(f"usage: hf-biasensemble make-dataset NAME [options]; NAME --help shows its options\n\n{listed}")
        return 0
    if name not in scripts:
        raise BiasEnsembleError(f"expected the name of a dataset, found {name}; known: {', '.join(scripts)}")
    return module_in(scripts[name]).main(words)
