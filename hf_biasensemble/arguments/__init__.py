"""The options of a run by subject, the strict parser, and the settings written to `config.yaml`."""

from hf_biasensemble.arguments.data import DataArguments as DataArguments
from hf_biasensemble.arguments.inference import InferenceArguments as InferenceArguments
from hf_biasensemble.arguments.model import ModelArguments as ModelArguments
from hf_biasensemble.arguments.options import option as option
from hf_biasensemble.arguments.parser import parse_arguments as parse_arguments
from hf_biasensemble.arguments.selection import SelectionArguments as SelectionArguments
from hf_biasensemble.arguments.selection import SelectorArguments as SelectorArguments
from hf_biasensemble.arguments.settled import member_arguments as member_arguments
from hf_biasensemble.arguments.settled import resolved as resolved
from hf_biasensemble.arguments.settled import settle_steps as settle_steps
from hf_biasensemble.arguments.settled import settled_network as settled_network
from hf_biasensemble.arguments.settled import settled_selection as settled_selection
from hf_biasensemble.arguments.settled import steps_of_epochs as steps_of_epochs
from hf_biasensemble.arguments.training import CHECKPOINT_CHOICES as CHECKPOINT_CHOICES
from hf_biasensemble.arguments.training import DebiasingArguments as DebiasingArguments
