"""The model that hf_biasensemble publishes, made known to the Auto classes of transformers; importing this does it."""

from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForImageClassification

from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier, DebiasedImageClassifierConfig

# So that a saved model brings its modeling file along, for those who do not have this package.
DebiasedImageClassifierConfig.register_for_auto_class()
DebiasedImageClassifier.register_for_auto_class("AutoModelForImageClassification")
# So that those who have it are asked nothing.
AutoConfig.register(DebiasedImageClassifierConfig.model_type, DebiasedImageClassifierConfig, exist_ok=True)
AutoModelForImageClassification.register(DebiasedImageClassifierConfig, DebiasedImageClassifier, exist_ok=True)
