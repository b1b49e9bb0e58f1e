"""One small network of every family of timm is published as it was trained, or refused before training.

The test takes those that are built in a moment, among them all kinds of buffers, heads and shared weights that once
did not reopen. As a script it walks through all of them, for most of an hour, and prints a line for each:
`python tests/test_families.py [NAME...]`.
"""

import json
import sys
from tempfile import TemporaryDirectory

import pytest
import torch

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.build import check_backbone, classifier_config
from hf_biasensemble.models.export import load_classifier, save_classifier
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.models.reopening import check_reopens

CLASSES = ["a", "b", "c"]
NAMES = """
beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 test_convnext
cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121
dla46x_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 test_efficientnet efficientvim_m1
efficientvit_b0 efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny
gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t
inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0
test_mambaout test_coatnet poolformerv2_s12 gmlp_ti16_224 lcnet_035 mobilenetv5_base mobilevit_xxs mvitv2_tiny
naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small test_nfnet pit_ti_224 pnasnet5large
pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d test_resnet
resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224
tresnet_m twins_svt_small vgg11 visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos
samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p
xcit_nano_12_p8_224 resnetblur18 maxvit_rmlp_pico_rw_256 vit_relpos_small_patch16_224 eva02_tiny_patch14_224
vit_small_patch16_dinov3 beitv2_base_patch16_224 lambda_resnet26t swin_s3_tiny_224 swinv2_cr_tiny_ns_224
convnext_atto mobilenetv3_small_050 botnet26t_256 coatnet_pico_rw_224 resnet18 vit_tiny_patch16_224
deepseek_vit_412m
""".split()
QUICK = """
test_byobnet coat_tiny convit_tiny test_convnext deit_tiny_patch16_224 dla46x_c dpn48b edgenext_xx_small
efficientformerv2_s0 test_efficientnet vit_tiny_patch16_dinov3_qkvb ghostnet_050 levit_128s mobilenetv3_small_050
mobilevit_xxs mvitv2_tiny test_nfnet pit_ti_224 regnetx_002 test_resnet resnetv2_18 resnetblur18
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 tiny_vit_5m_224 test_vit test_vit_relpos xcit_nano_12_p8_224
""".split()
"""Those of the test."""
SIZES = {
    "halonet_h1": 256,
    "csatv2": 64,
    "deepseek_vit_412m": 546,
    "efficientformer_l1": 224,
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
}
"""Of those that do not take 32 pixels."""
KINDS = {"lff_be": (1, "linear"), "disent_be": (2, "linear"), "frozen mlp": (1, "mlp")}
"""Encoders and head of what is published."""
REFUSED: dict[str, str] = {}
"""Networks that cannot be published, with what the error says."""


def arguments_of(name: str) -> ModelArguments:
    """Those of a network from scratch at a small size, told to it where it has an argument for it."""
    size = SIZES.get(name, 32)
    for arguments in (None, json.dumps({"img_size": size})):
        model_args = ModelArguments(backbone=name, image_size=size, backbone_args=arguments)
        try:
            check_backbone(model_args, 2)
        except BiasEnsembleError:
            if arguments:
                raise
        else:
            break
    return model_args


def trained(model_args: ModelArguments, encoders: int, head: str) -> DebiasedImageClassifier:
    """A network whose weights and statistics are none that an initialisation gives."""
    config = classifier_config(model_args, CLASSES, encoders)
    config.head_hidden = 16 if head == "mlp" else None
    torch.manual_seed(1)
    model = DebiasedImageClassifier(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(getattr(module, "running_var", None), torch.Tensor):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def checked_before_training(model_args: ModelArguments, kind: str) -> None:
    """What `train` checks before it begins."""
    if kind == "frozen mlp":  # a frozen backbone has weights, which are left out of the check
        model_args.head, model_args.head_hidden = "mlp", 16
        check_reopens(METHODS["lff_be"].network, model_args, CLASSES)
    else:
        check_reopens(METHODS[kind].network, model_args, CLASSES)


@torch.inference_mode()
def difference(name: str, kind: str) -> float:
    """Largest difference between the logits of a network and those of the published one that is opened again, as a
    fraction of the largest logit where that is above 1.

    Raises:
        `BiasEnsembleError`: If it is refused before training.
    """
    model_args = arguments_of(name)
    checked_before_training(model_args, kind)
    model_args = arguments_of(name)
    model, size = trained(model_args, *KINDS[kind]), model_args.image_size
    images = torch.randn(2, 3, size, size)
    expected = model(images).logits
    with TemporaryDirectory() as folder:
        save_classifier(model, ImageTransform((0.5,) * 3, (0.25,) * 3, image_size=size), folder)
        del model
        junk = [torch.randint(1, 1000, (count,)) for count in (49, 100, 1000, 2401, 10000, 40000) for _ in range(3)]
        del junk  # what uninitialised memory will hold
        found = load_classifier(folder)[0](images).logits
    assert expected.std() > 0
    return float((expected - found).abs().max()) / max(1.0, float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", QUICK)
def test_network_is_published_as_it_was_trained_or_refused_before(name, kind):
    try:
        assert difference(name, kind) < 1e-5
    except BiasEnsembleError as error:
        assert REFUSED.get(name, "is not to be refused") in str(error)


if __name__ == "__main__":
    for number, name in enumerate(sys.argv[1:] or NAMES, 1):
        for kind in KINDS:
            try:
                value = difference(name, kind)
                said = f"agrees ({value:.1g})" if value < 1e-5 else f"DIFFERS BY {value:.3g}"
            except BiasEnsembleError as error:
                said = f"refused: {error}"
            except Exception as error:
                said = f"FAILS: {type(error).__name__}: {str(error)[:300]}"
            print(f"{number} {name}, {kind}: {said}", flush=True)
